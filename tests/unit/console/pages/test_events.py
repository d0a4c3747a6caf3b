"""The page of events: one list over all services, newest first, by topic and by any id."""

from typing import Any
from urllib.parse import unquote

import pytest

from shared.contracts.topology import SERVICES
from tests.unit.console.pages.conftest import Browser, Door

HOSTILE = "<img src=x onerror=alert(1)>"
SENT: dict[str, Any] = {
    "event_id": "e-1",
    "service": "trainer",
    "topic": "model.trained",
    "correlationid": "c-1",
    "causationid": "e-0",
    "refs": ["run-1"],
    "at": "2026-01-01T12:00:00.123456Z",
    "sent_at": "2026-01-01T12:00:01Z",
    "dead_at": None,
    "next_try_at": "2026-01-01T12:00:00Z",
    "attempts": 0,
    "error": None,
    "partition": 2,
    "offset": 118,
    "bytes": 812,
    "state": "sent",
    "source": "/trainer",
    "type": "model.trained.v1",
    "subject": "run-1",
    "redriven": False,
    "headers": {"ce_id": "e-1", "ce_source": "/trainer"},
    "payload": {"model": "support", "run_id": "run-1", "loss": 0.25},
}
FOREIGN: dict[str, Any] = {
    **SENT,
    "event_id": "crm-1",
    "topic": "training.requested",
    "source": "/crm",
    "state": "received",
    "handled": "done",
    "subject": None,
    "headers": {},
    "payload": {},
    "bytes": None,
    "offset": 7,
}


@pytest.fixture(autouse=True)
def quiet(door: Door) -> None:
    for name in SERVICES:
        door.says[name, "/events"] = {"events": [], "next": None}


def told(door: Door, service: str, *rows: dict[str, Any], following: str | None = None) -> None:
    door.says[service, "/events"] = {
        "events": [{**row, "service": service} for row in rows],
        "next": following,
    }


def test_all_services_are_one_list_newest_first(browser: Browser, door: Door) -> None:
    told(
        door,
        "trainer",
        {**SENT, "at": "2026-01-01T12:00:02Z"},
        {**SENT, "event_id": "e-2", "at": "2026-01-01T12:00:00Z"},
    )
    told(door, "data", {**SENT, "event_id": "e-3", "at": "2026-01-01T12:00:01Z"})
    text = browser.sees("/events")
    assert text.index("<code>e-1<") < text.index("<code>e-3<") < text.index("<code>e-2<")
    for part in (
        "p2@118",
        "model support · run_id run-1 · loss 0.25",
        "812 B",
        "ce_source",
        'href="/trace/c-1"',
    ):
        assert part in text
    assert "12:00:02" in text
    assert "driftwheel events tail --beginning" in text


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"state": "waiting"}, "in the outbox"),
        ({"state": "never sent", "error": "InvalidTopicError"}, "InvalidTopicError"),
        ({"redriven": True}, ">redriven<"),
        ({"subject": None, "refs": []}, "<td>–</td>"),
        ({"payload": {}}, "no values to show"),
    ],
)
def test_states_are_told(browser: Browser, door: Door, changed: dict[str, Any], shown: str) -> None:
    told(door, "trainer", {**SENT, **changed})
    assert shown in browser.sees("/events")


def test_an_event_from_outside_is_shown_once_with_its_readers(browser: Browser, door: Door) -> None:
    told(door, "trainer", FOREIGN)
    told(door, "monitor", {**FOREIGN, "handled": "dead"})
    text = browser.sees("/events")
    assert text.count("/crm") == 1
    assert "p2@7 by trainer, monitor" in text
    assert "training.requested/2/7" in text


def test_filters_and_pages_go_to_the_services(browser: Browser, door: Door) -> None:
    rows = [{**SENT, "event_id": f"e-{n}", "at": f"2026-01-01T12:00:{59 - n:02}Z"} for n in range(50)]
    told(door, "trainer", *rows, following="x")
    text = browser.sees("/events?topic=model.trained&id=run-1")
    [link] = [part.split('"')[0] for part in text.split('href="') if 'rel="next"' in part.split(">")[0]]
    after = "2026-01-01T12:00:10Z~e-49"
    assert unquote(link).replace("&amp;", "&") == f"/events?topic=model.trained&id=run-1&after={after}"
    older = browser.sees(link.replace("&amp;", "&"))
    asked = [params for _, _, path, params, _ in door.asked if path == "/events"][-6:]
    assert all(
        one == {"topic": "model.trained", "id": "run-1", "after": after, "limit": "50"} for one in asked
    )
    assert 'data-live=""' in older, "an old page stays as it is"
    assert "driftwheel events search --id run-1 --topic model.trained" in older


def test_empty_and_away(browser: Browser, door: Door) -> None:
    assert "No event yet" in browser.sees("/events")
    assert "No event matches" in browser.sees("/events?id=x")
    door.says["data", "/events"] = None
    told(door, "trainer", SENT)
    text = browser.sees("/events")
    assert "data does not answer" in text
    assert "model.trained" in text
    for name in SERVICES:
        door.says[name, "/events"] = 503
    assert "No event yet" not in browser.sees("/events")


def test_hostile_text_is_text(browser: Browser, door: Door) -> None:
    names = ("topic", "source", "subject", "correlationid", "causationid", "error", "event_id")
    bad = {
        **SENT,
        **dict.fromkeys(names, HOSTILE),
        "headers": {HOSTILE: HOSTILE},
        "payload": {HOSTILE: HOSTILE},
    }
    told(door, "trainer", bad, {**bad, "state": "never sent"})
    text = browser.sees(f"/events?id={HOSTILE}&topic={HOSTILE}")
    assert HOSTILE not in text
    assert "&lt;img" in text


def test_it_needs_the_scope(browser: Browser) -> None:
    browser.signs_in("chat")
    browser.sees("/events", status=403)
