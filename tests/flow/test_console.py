"""The console on the story's own stack, in a real browser: each page, by keyboard, judged by axe, photographed."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser import Visit, browsing, chromium, visit
from tests.flow.conftest import Told

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(chromium() is None, reason="no Chromium here: on Debian apt-get install chromium"),
]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SCREENS = Path(__file__).parents[2] / ".driftwheel" / "screens"
MENU = (
    "/", "/datasets", "/runs", "/evaluations", "/models", "/rollouts", "/drift", "/trace", "/events", "/dead-letters",
)  # fmt: skip
LOOKS = (("light", 1_440), ("dark", 1_440), ("light", 390))
MOST_PAGES = 40
ALIKE = 1
"""Of pages that differ in an id only, this many are looked at."""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with browsing(str(chromium())) as browser:
        yield browser


def shape(path: str) -> str:
    """The kind of a page: its address without ids and values."""
    bare = re.sub(r"=[^&]*", "=", path)
    return re.sub(r"/(?=[^/?]*\d)[^/?]+", "/ID", bare)


async def pages(window: Visit) -> list[str]:
    """Every kind of page that a person can reach by following links from the menu."""
    found: dict[str, list[str]] = {}
    waiting, seen = list(MENU), set(MENU)
    while waiting and sum(map(len, found.values())) < MOST_PAGES:
        path = waiting.pop(0)
        kept = found.setdefault(shape(path), [])
        if len(kept) >= ALIKE:
            continue
        answer = await window.page.goto(path)
        assert answer is not None
        if "text/html" not in answer.headers.get("content-type", ""):
            continue
        kept.append(path)
        assert answer.status == 200, f"{path}: {answer.status}"
        links = await window.page.eval_on_selector_all(
            "a[href^='/']:not([download])", "all => all.map(a => a.getAttribute('href').split('#')[0])"
        )
        waiting += [link for link in links if link not in seen]
        seen.update(links)
    return [path for kept in found.values() for path in kept]


async def violations(page: Page) -> list[str]:
    """What axe finds: the rule and where."""
    await page.evaluate(AXE)
    result = await page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [f"{v['id']}: {node['html'][:160]}" for v in result["violations"] for node in v["nodes"]]


async def test_home_followed_the_story_without_being_loaded_again(told: Told) -> None:
    assert not [line for line in told.seen_at_home if line.startswith("complaint")]
    text = "\n".join(told.seen_at_home)
    for headline in ("no dataset yet", "support:1", "support:2", "drifted", "retrain"):
        assert headline in text, text


async def test_every_page_is_whole_accessible_and_quiet(told: Told, browser: Browser) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    url, token = told.platform.url, told.platform.token
    window = await visit(browser, url, token)
    paths = await pages(window)
    assert {shape(path) for path in paths} >= {*MENU, "/runs/ID", "/models/support", "/rollouts/ID"}
    trouble = list(window.complaints)
    await window.page.context.close()
    for scheme, width in LOOKS:
        window = await visit(browser, url, token, width, scheme)
        for path in paths:
            await window.page.goto(path, wait_until="load")
            if await window.page.locator("[data-chart]").count():
                await expect(window.page.locator("[data-chart]").first).not_to_be_empty()
            name = shape(path).strip("/").replace("/", "-").replace("?", "-") or "home"
            await window.page.screenshot(
                path=SCREENS / f"{re.sub('[^a-zA-Z0-9-]', '', name)}-{width}-{scheme}.png", full_page=True
            )
            trouble += [f"{path} ({scheme}): {found}" for found in await violations(window.page)]
            if await window.page.evaluate("document.documentElement.scrollWidth") > width:
                trouble.append(f"{path} is wider than {width} pixels")
        trouble += window.complaints
        await window.page.context.close()
    assert trouble == []


async def test_by_keyboard_alone_from_the_login_to_a_rollback(told: Told, browser: Browser) -> None:
    window = await visit(browser, told.platform.url, None)
    page = window.page
    await page.goto("/models/support")
    await expect(page).to_have_url(re.compile("/login"))
    await page.keyboard.insert_text(told.platform.token)  # the field has the focus
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("support")

    summary = page.locator("summary", has_text=re.compile("roll back", re.IGNORECASE)).first
    for _ in range(80):
        await page.keyboard.press("Tab")
        if await summary.evaluate("element => element === document.activeElement"):
            break
    await expect(summary).to_be_focused()
    await page.keyboard.press("Enter")
    form = page.locator("details.action[open] form")
    await form.locator("input[name=reason]").focus()
    await page.keyboard.insert_text("the drill of the browser test")
    await page.keyboard.press("Enter")
    await expect(page.locator(".said")).to_be_visible()

    async def rolled_back() -> bool:
        return await told.platform.champion("support") == 1

    async with asyncio.timeout(60):
        while not await rolled_back():
            await asyncio.sleep(0.2)
    await page.goto("/models/support")
    await expect(page.locator("#main")).to_contain_text("the drill of the browser test")
    assert window.complaints == []
    await page.context.close()


async def test_a_service_that_is_down_turns_its_part_grey_and_comes_back(
    told: Told, browser: Browser
) -> None:
    stack = told.platform.stack
    window = await visit(browser, told.platform.url, told.platform.token)
    await window.page.goto("/")
    trainer = window.page.locator(".station.trainer")
    await expect(trainer).not_to_have_class(re.compile("away"))
    stack.kill("trainer")
    await expect(trainer).to_have_class(re.compile("away"), timeout=30_000)
    await expect(window.page.locator(".station.data")).not_to_have_class(re.compile("away"))
    await expect(trainer).not_to_have_class(re.compile("away"), timeout=90_000)
    await window.page.context.close()


async def test_a_page_survives_a_restart_of_the_console(told: Told, browser: Browser) -> None:
    window = await visit(browser, told.platform.url, told.platform.token)
    await window.page.goto("/")
    live = window.page.locator("#link")
    await expect(live).to_have_text("live")
    told.platform.stack.kill("console")
    await expect(live).to_have_text("reconnecting", timeout=20_000)
    await expect(live).to_have_text("live", timeout=60_000)
    await window.page.context.close()
