"""The pages of dead letters: one list over all services, the record, and redriving one or many."""

from typing import Any
from urllib.parse import unquote

import pytest

from shared.contracts.topology import SERVICES
from tests.unit.console.pages.conftest import Browser, Door
from tests.unit.console.test_dlq import DONE, DRY, LETTER

HOSTILE = "<script>alert(1)</script>"
NONE = {**DRY, "matching": 0, "messages": 0, "by_topic": [], "by_error": [], "other_errors": 0, "first": []}
MANY = ("POST", "/dead-letters/redrive")


@pytest.fixture(autouse=True)
def quiet(door: Door) -> None:
    for name in SERVICES:
        door.says[name, "/dead-letters"] = {"dead_letters": [], "next": None}
        door.says[name, "/dead-letters/redrive"] = NONE
        door.says[name, "/pulse"] = {"dead_letters": 0, "ready": True, "mark": "", "sent": None}


def letters(*ids: str, minute: int = 0, **changed: Any) -> list[dict[str, Any]]:
    return [
        {**LETTER, "event_id": one, "handled_at": f"2026-01-01T12:{minute + n:02}:00Z", **changed}
        for n, one in reversed(list(enumerate(ids)))
    ]


def test_all_services_are_one_list_newest_first(browser: Browser, door: Door) -> None:
    door.says["data", "/dead-letters"] = {"dead_letters": letters("d-0", "d-1"), "next": None}
    door.says["trainer", "/dead-letters"] = {"dead_letters": letters("t-0", minute=2), "next": None}
    door.says["data", "/pulse"]["dead_letters"] = 1_234
    text = browser.sees("/dead-letters")
    places = [text.index(f'title="{one}"') for one in ("t-0", "d-1", "d-0")]
    assert places == sorted(places)
    assert "1,234" in text
    assert 'href="/dead-letters/redrive?"' in text
    assert 'rel="next"' not in text


def test_the_next_page_begins_after_the_last_row(browser: Browser, door: Door) -> None:
    ids = [f"d-{n}" for n in range(60)]
    door.says["data", "/dead-letters"] = {"dead_letters": letters(*ids)[:50], "next": "x"}
    text = browser.sees("/dead-letters?topic=dataset.ready")
    [link] = [part.split('"')[0] for part in text.split('href="') if 'rel="next"' in part.split(">")[0]]
    assert (
        unquote(link).replace("&amp;", "&")
        == "/dead-letters?topic=dataset.ready&after=2026-01-01T12:10:00Z~d-10"
    )
    browser.sees(link.replace("&amp;", "&"))
    assert door.asked[-1][3].get("after", "2026-01-01T12:10:00Z~d-10") == "2026-01-01T12:10:00Z~d-10"
    asked = [params for _, service, path, params, _ in door.asked if path == "/dead-letters"][-6:]
    assert all(
        one == {"topic": "dataset.ready", "after": "2026-01-01T12:10:00Z~d-10", "limit": "50"}
        for one in asked
    )


def test_one_service_is_asked_alone(browser: Browser, door: Door) -> None:
    browser.sees("/dead-letters?service=trainer&error=50%25")
    asked = [(service, params) for _, service, path, params, _ in door.asked if path == "/dead-letters"]
    assert asked == [("trainer", {"error": "50%", "limit": "50"})]


def test_nothing_dead_and_nobody_there(browser: Browser, door: Door) -> None:
    assert "Nothing is dead" in browser.sees("/dead-letters")
    assert "No dead letter matches" in browser.sees("/dead-letters?topic=x")
    door.says["monitor", "/dead-letters"] = None
    door.says["monitor", "/pulse"] = None
    door.says["data", "/dead-letters"] = {"dead_letters": letters("d-0"), "next": None}
    text = browser.sees("/dead-letters")
    assert "monitor does not answer" in text
    assert "d-0" in text
    for name in SERVICES:
        door.says[name, "/dead-letters"] = None
    text = browser.sees("/dead-letters")
    assert "Nothing is dead" not in text
    assert text.count("does not answer.") >= len(SERVICES)


def test_the_record_is_shown_whole(browser: Browser, door: Door) -> None:
    door.says["trainer", "/dead-letters/e-1"] = LETTER
    text = browser.sees("/dead-letters/trainer/e-1")
    for part in ("dataset.ready/2/118", "ValueError in the handler", "x-binary", "/w==", "null", "20 B"):
        assert part in text
    assert "&#34;model&#34;: &#34;[red]x[/]&#34;" in text
    assert 'action="/dead-letters/trainer/e-1/redrive"' in text
    assert 'href="/trace/c-1"' in text
    door.says["trainer", "/dead-letters/dataset.ready/2/118"] = {**LETTER, "event_id": "dataset.ready/2/118"}
    assert 'action="/dead-letters/trainer/dataset.ready%2F2%2F118/redrive"' in browser.sees(
        "/dead-letters/trainer/dataset.ready%2F2%2F118"
    )


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"payload": None, "payload_needs": "admin"}, "shown to those with the scope admin"),
        ({"state": "done", "payload": None, "headers": None, "key": None}, "no longer kept here"),
        ({"state": "redriven"}, "has not taken it yet"),
        ({"payload": None}, "a tombstone"),
        ({"payload": {**LETTER["payload"], "cut": True}}, "Only the beginning"),
        ({"payload": {"encoding": "base64", "text": "/w==", "bytes": 1, "cut": False}}, "shown as base64"),
        ({"payload": {**LETTER["payload"], "text": "[" * 100_000}}, "[[[["),
    ],
)
def test_whatever_is_kept_is_shown(browser: Browser, door: Door, changed: dict[str, Any], shown: str) -> None:
    door.says["trainer", "/dead-letters/e-1"] = {**LETTER, **changed}
    text = browser.sees("/dead-letters/trainer/e-1")
    assert shown in text
    assert ("Redrive" in text) == (changed.get("state", "dead") == "dead")


def test_hostile_text_is_text(browser: Browser, door: Door) -> None:
    bad: dict[str, Any] = {
        **LETTER,
        **dict.fromkeys(("error", "topic", "source", "type", "correlationid", "causationid"), HOSTILE),
        "headers": [[HOSTILE, HOSTILE]],
        "refs": [HOSTILE],
        "payload": {**LETTER["payload"], "text": HOSTILE},
    }
    door.says["data", "/dead-letters"] = {"dead_letters": [bad], "next": None}
    door.says["data", "/dead-letters/e-1"] = bad
    door.says["data", "/dead-letters/redrive"] = {
        **DRY,
        "by_error": [{"error": HOSTILE, "messages": 1}],
        "by_topic": [{"topic": HOSTILE, "messages": 1}],
    }
    for path in ("/dead-letters", "/dead-letters/data/e-1", f"/dead-letters/redrive?error={HOSTILE}"):
        text = browser.sees(path)
        assert HOSTILE not in text
        assert "&lt;script&gt;" in text


def test_one_is_redriven(browser: Browser, door: Door) -> None:
    door.says["trainer", "/dead-letters/e-1/redrive"] = {"event_id": "e-1", "topic": "dataset.ready"}
    answer = browser.sends("/dead-letters/trainer/e-1/redrive")
    assert (
        unquote(answer.headers["location"]) == "/dead-letters/trainer/e-1?said=Sent to dataset.ready again."
    )
    door.says["trainer", "/dead-letters/e-1/redrive"] = 409
    assert "Not sent: trainer said 409." in unquote(
        browser.sends("/dead-letters/trainer/e-1/redrive").headers["location"]
    )


def test_many_are_previewed_and_then_sent_as_previewed(browser: Browser, door: Door) -> None:
    door.says["trainer", "/dead-letters/redrive"] = DRY
    door.says["monitor", "/dead-letters/redrive"] = None
    text = browser.sees("/dead-letters/redrive?error=ValueError")
    assert "1,000 of 1,200 go again" in text
    assert "other reasons" in text
    assert "monitor does not answer" in text
    assert "<h2>data</h2>" not in text, "what has nothing to send is left out"
    assert 'name="count-trainer" value="1000"' in text
    assert all(body["dry_run"] for method, _, path, _, body in door.asked if (method, path) == MANY)
    door.asked.clear()
    door.says["trainer", "/dead-letters/redrive"] = DONE
    answer = browser.sends(
        "/dead-letters/redrive", **{"error": "ValueError", "rate": "20", "count-trainer": "1000"}
    )
    assert unquote(answer.headers["location"]) == (
        "/dead-letters?error=ValueError&said=1000 go again (trainer 1000), the last one in 50 s."
    )
    sent = [(service, body) for _, service, path, _, body in door.asked if path == MANY[1]]
    assert sent == [("trainer", {"error": "ValueError", "limit": 1_000, "per_second": 20.0})]


def test_a_refusal_is_told(browser: Browser, door: Door) -> None:
    door.says["trainer", "/dead-letters/redrive"] = 403
    answer = browser.sends(
        "/dead-letters/redrive", **{"rate": "20", "count-trainer": "3", "count-data": "-1"}
    )
    assert "Nothing was sent. trainer did not: trainer said 403." in unquote(answer.headers["location"])
    assert browser.sends("/dead-letters/redrive", rate="0").status_code == 422


def test_nothing_matches_nothing_is_offered(browser: Browser) -> None:
    text = browser.sees("/dead-letters/redrive?topic=x")
    assert "Nothing matches" in text
    assert '<button class="primary">' not in text


def test_without_admin_nothing_can_be_sent(browser: Browser, door: Door) -> None:
    door.says["data", "/dead-letters"] = {"dead_letters": letters("d-0"), "next": None}
    door.says["data", "/dead-letters/e-1"] = LETTER
    browser.signs_in("monitor:read")
    for path in ("/dead-letters", "/dead-letters/data/e-1"):
        assert "edrive …" not in browser.sees(path)
        assert "/redrive" not in browser.sees(path)
    browser.sees("/dead-letters/redrive", status=403)
    assert browser.sends("/dead-letters/data/e-1/redrive").status_code == 403
    assert browser.sends("/dead-letters/redrive", rate="1").status_code == 403


def test_what_is_not_there(browser: Browser, door: Door) -> None:
    assert "data said 404." in browser.sees("/dead-letters/data/nothing", status=404)
    browser.sees("/dead-letters/nobody/e-1", status=404)
    door.says["data", "/dead-letters/e-1"] = None
    assert "data does not answer" in browser.sees("/dead-letters/data/e-1")
