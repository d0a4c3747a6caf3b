"""A person's browser: Chromium without a window, signed in, with everything it complains about written down."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where the browser is; None if this machine has none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def browsing(executable: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@dataclass
class Visit:
    """One window. `complaints` are console errors, page errors and answers of 500 and more."""

    page: Page
    complaints: list[str] = field(default_factory=list)


async def visit(
    browser: Browser, url: str, token: str | None, width: int = 1_440, scheme: Any = "light"
) -> Visit:
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=url
    )
    if token:
        await context.request.post(f"{url}/login", form={"token": token}, headers={"origin": url})
    made = Visit(await context.new_page())

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            made.complaints.append(f"{made.page.url}: {message.text}")

    made.page.on("console", hear)
    made.page.on("pageerror", lambda error: made.complaints.append(f"{made.page.url}: {error}"))
    return made


class Watcher:
    """A home page that stays open through the whole story and is never loaded again."""

    def __init__(self, window: Visit | None) -> None:
        self._window = window

    @classmethod
    @asynccontextmanager
    async def of(cls, executable: str | None, url: str, token: str) -> AsyncIterator["Watcher"]:
        """Without a browser it sees nothing, and the tests of pages are skipped."""
        if executable is None:
            yield cls(None)
            return
        async with browsing(executable) as browser:
            window = await visit(browser, url, token)
            await window.page.goto("/")
            # What the page shows is written down by the page itself, each time it is drawn again.
            await window.page.evaluate(
                """() => {
                    window.shown = new Set();
                    const look = () => document.querySelectorAll(".headline").forEach(
                        (line) => window.shown.add(line.textContent.replace(/\\s+/g, " ").trim()));
                    look();
                    document.addEventListener("htmx:after:swap", look);
                }"""
            )
            yield cls(window)

    async def seen(self) -> list[str]:
        """Every headline of the six stations that was shown, and then every complaint."""
        if self._window is None:
            return []
        shown: list[str] = await self._window.page.evaluate("() => [...window.shown]")
        return [*shown, *(f"complaint: {text}" for text in self._window.complaints)]
