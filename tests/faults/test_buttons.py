"""The buttons of the console, pressed on real rollouts and runs: pause, resume, abort, cancel, sign out."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser import Visit, browsing, chromium, visit
from tests.loop import Platform, rows, until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(420),
    pytest.mark.skipif(chromium() is None, reason="no Chromium here: on Debian apt-get install chromium"),
]


@pytest.fixture
async def window(platform: Platform) -> AsyncIterator[Visit]:
    async with browsing(str(chromium())) as browser:
        yield await visit(browser, platform.url, platform.token)


async def press(page: Page, label: str, reason: str = "") -> None:
    """Open what the button asks, give the reason it wants, confirm; and see the page say what came of it."""
    await page.locator("summary.button", has_text=re.compile(f"^{label}", re.IGNORECASE)).first.click()
    form = page.locator("details.action[open] form")
    async with page.expect_response(
        lambda answer: "hx-request" in answer.request.headers
    ):  # news that arrives now must not close the question
        await page.evaluate("htmx.trigger(document.getElementById('main'), 'news')")
    if reason:
        await form.locator("input[name=reason]").fill(reason)
    await form.locator("button").click()
    await expect(page.locator(".said")).to_be_visible()


async def test_a_ramp_is_paused_resumed_and_aborted_by_hand(platform: Platform, window: Visit) -> None:
    model, page = "buttons", window.page
    await platform.declare(model, ramp={"steps": [25, 100], "min_samples": 1_000, "hold_seconds": 0})

    async def rollout(version: int, state: str) -> Any:
        found = await platform.get("/api/serving/rollouts", model=model)
        return [
            one
            for one in (found or {}).get("rollouts", [])
            if (one["model_version"], one["state"]) == (version, state)
        ]

    await platform.upload(model)
    await until(lambda: rollout(1, "completed"), "the first version")
    await platform.upload(model, rows(8))
    (running,) = await until(lambda: rollout(2, "running"), "the ramp of version 2")

    await page.goto(f"/rollouts/{running['id']}")
    await press(page, "Pause", "it smells")
    await expect(page.locator("#main")).to_contain_text("it smells")
    await page.goto("/")
    await expect(page.locator("#main")).to_contain_text("Waits for a person")
    await page.goto(f"/rollouts/{running['id']}")
    await press(page, "Resume")
    await press(page, "Abort", "the drill is over")
    (ended,) = await until(lambda: rollout(2, "rolled_back"), "the end of the ramp")
    assert "the drill is over" in ended["reason"]
    await expect(page.locator("#main")).to_contain_text("the drill is over")
    assert await platform.champion(model) == 1
    assert window.complaints == []


async def test_a_run_is_cancelled_and_its_curve_was_seen(platform: Platform, window: Visit) -> None:
    model, page = "buttons-run", window.page
    recipe = {"method": "lora", "rank": 4, "alpha": 8, "epochs": 100, "batch_size": 8, "learning_rate": 0.01,
              "evaluate_every": 5, "checkpoint_every": 50, "patience": 1_000}  # fmt: skip
    await platform.declare(model, recipe=recipe)
    await platform.upload(model)

    async def training() -> Any:
        return [run for run in await platform.runs(model) if run["state"] == "running" and run["step"] > 5]

    (run,) = await until(training, "a run under way", pause=0.05)
    await page.goto(f"/runs/{run['id']}")
    await expect(page.locator("[data-chart] canvas").first).to_be_visible()
    await press(page, "Cancel")

    async def cancelled() -> Any:
        return [one for one in await platform.runs(model) if one["state"] == "cancelled"]

    await until(cancelled, "the end of the run")
    await expect(page.locator("#main h1")).to_contain_text("cancelled", timeout=15_000)  # by itself
    assert window.complaints == []


async def test_who_signs_out_is_out(platform: Platform, window: Visit) -> None:
    page = window.page
    await page.goto("/models")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(re.compile("/login"))
    await page.goto("/models")
    await expect(page).to_have_url(re.compile("/login"))
