"""What every page has in common: login, scopes, headers, a part that is away."""

import re
import time
from typing import Any

import pytest

from services.console.api import PUBLIC_PATHS
from services.console.session import inside
from services.console.views import ROOT, duration, number, size
from shared.contracts.topology import SERVICES
from tests.scopes import routes
from tests.unit.console.pages.conftest import Browser, Door


def test_no_page_without_a_scope(browser: Browser) -> None:
    app: Any = browser.http.app
    found = list(routes(app))
    assert {route.path for route in found if not route.scopes} == set(PUBLIC_PATHS)
    assert "/" in {route.path for route in found if route.scopes}


def test_a_stranger_is_sent_to_the_login_and_back(browser: Browser) -> None:
    browser.http.cookies.clear()
    answer = browser.http.get("/runs?model=support")
    if answer.status_code == 404:
        pytest.skip("no page of runs")
    assert answer.headers["location"] == "/login?next=%2Fruns%3Fmodel%3Dsupport"
    assert browser.http.get("/live").status_code == 401


def test_a_token_becomes_a_cookie_that_no_script_reads(browser: Browser) -> None:
    token = browser.token("run:read")
    browser.http.cookies.clear()
    answer = browser.sends("/login", token=f" {token}\n", next="//elsewhere.example/x")
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert token not in cookie, "whoever reads the cookie can call no service with it"
    wrong = browser.sends("/login", token="nonsense")
    assert wrong.headers["location"].endswith("why=invalid")
    assert "set-cookie" not in wrong.headers


def test_a_cookie_is_sent_over_https_only_unless_the_browser_asks_this_machine(browser: Browser) -> None:
    fields = {"token": browser.token("run:read")}
    for host, secure in {
        "console.example": True,
        "localhost:8080": False,
        "127.0.0.1": False,
        "[::1]:1": False,
    }.items():
        headers = {"host": host, "origin": f"http://{host}"}
        cookie = browser.http.post("/login", data=fields, headers=headers).headers["set-cookie"]
        assert ("Secure" in cookie) is secure, host


def test_a_session_ends(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.http.get("/runs").status_code == 200
    later = time.time() + 43_201
    monkeypatch.setattr("cryptography.fernet.time.time", lambda: later)
    assert browser.http.get("/runs").status_code == 303


def test_the_login_page_says_nothing_that_an_address_made_up(browser: Browser) -> None:
    assert "evil" not in browser.sees("/login?why=Call+evil.example+now")
    assert "expired" in browser.sees("/login?why=invalid")


def test_no_part_of_a_form_becomes_a_file(browser: Browser) -> None:
    ours = {"sec-fetch-site": "same-origin"}
    for path in ("/login", "/logout", "/dead-letters/redrive"):
        form = browser.http.post(path, files={"token": ("a", b"x" * 1_000)}, headers=ours)
        assert form.status_code == 422, path
        large = browser.http.post(path, data={"token": "x" * 20_000}, headers=ours)
        assert large.status_code == 413, path


def test_a_stranger_reaches_no_form(browser: Browser) -> None:
    browser.http.cookies.clear()
    refused = browser.http.post("/dead-letters/redrive", content=b"x" * 1_000_000)
    assert refused.status_code == 303
    assert refused.headers["location"] == "/login?next=%2F"


def test_a_form_of_another_site_is_refused(browser: Browser) -> None:
    for headers in ({}, {"origin": "http://elsewhere.example"}, {"sec-fetch-site": "cross-site"}):
        assert browser.http.post("/logout", headers=headers).status_code == 403
    assert browser.http.post("/logout", headers={"origin": "http://testserver"}).status_code == 303


@pytest.mark.parametrize("path", ["//x", "/\\x", "http://x", "javascript:x", "x", "/a\nb", "\\\\x"])
def test_only_our_own_paths_are_gone_back_to(path: str) -> None:
    assert inside(path) == "/"


def test_every_answer_is_guarded(browser: Browser) -> None:
    for path in ("/", "/login", "/nowhere", "/static/console.css"):
        headers = browser.http.get(path).headers
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert ("no-store" in headers["cache-control"]) != path.startswith("/static/")


def test_no_template_needs_what_the_policy_forbids() -> None:
    for file in (ROOT / "templates").rglob("*.html"):
        text = file.read_text()
        assert not re.search(
            r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]*\ssrc=)|\|\s*safe|https?://", text
        ), file


def test_a_part_that_is_away_is_grey_and_alone(browser: Browser, door: Door) -> None:
    for service in SERVICES:
        door.says[service, "/pulse"] = None
    text = browser.sees("/")
    assert "registry does not answer" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "40 ms"), (7.24, "7.2 s"), (59.6, "1 min 00 s"), (7_800, "2 h 10 min"), (None, "–")],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_read_well() -> None:
    assert [number(v) for v in (1234, 0.2881, 12.345, None)] == ["1,234", "0.288", "12.35", "–"]
    assert [size(v) for v in (12, 1_200, 34_000, 5_600_000, None)] == [
        "12 B",
        "1.2 kB",
        "34 kB",
        "5.6 MB",
        "–",
    ]
