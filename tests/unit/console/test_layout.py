"""What people see fits their terminal; nothing that is copied or compared is ever broken or cut."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from services.console.commands.drifts import amount
from services.console.commands.events import summary
from services.console.formats import money, number
from services.console.layout import Column, Moment, pairs, table
from services.console.local_time import at, clock_in_zone, when
from services.monitor.api import window_view
from services.serving.api import rollout_view
from shared.contracts.topology import SERVICES
from tests.unit.console.conftest import Command, Door
from tests.unit.console.pages.test_drift import drift, window
from tests.unit.console.pages.test_rollouts import ID, document, rollout
from tests.unit.console.test_artifacts import more_answers
from tests.unit.console.test_commands import ANSWERS, BUILD, MODEL, MOVED, RUN, VERSION
from tests.unit.console.test_consumers import QUARANTINE, RUNNING, STOPPED
from tests.unit.console.test_dlq import DRY, LETTER, PLAN

UUID = "0193a1b2-7c3d-7e4f-8a9b-0c1d2e3f4a5b"
LONG = "customer-support-tier-two-emea-night-shift-team"
ERROR = "ValueError in the handler: 3 of 1,200 rows have no completion; see the log of trainer-worker for the first."
WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789-ü漢", min_size=1, max_size=36)
CELL = st.one_of(
    st.none(),
    st.integers(-(10**9), 10**9),
    st.floats(-1e9, 1e9, allow_nan=False),
    WORD,
    st.just(Moment("2026-01-01 12:00:00 CET", "01-01 12:00 CET")),
)


@given(st.lists(st.tuples(CELL, CELL, CELL, CELL, st.lists(WORD, max_size=12).map(" ".join)), max_size=5))
def test_a_table_fits_and_breaks_no_word(rows: list[tuple[Any, ...]]) -> None:
    columns = ("first", "second", Column("third", 2), Column("fourth", 1), Column("why", 3, prose=True))
    lines, left_out = table(columns, rows, 80)
    assert all(cell_len(line.plain) <= 80 for line in lines)
    wide = table(columns, rows, None)
    assert not wide.left_out
    assert len(wide.lines) == len(rows) + 1
    shown, known = ({word for line in lines for word in line.plain.split()} for lines in (lines, wide.lines))
    assert shown <= known | {"01-01", "12:00"}
    kept = [place for place, name in enumerate(("first", "second")) if name not in left_out]
    for row in rows:
        for place in kept:
            if isinstance(row[place], str):
                assert row[place] in shown


@given(st.lists(st.tuples(st.sampled_from(["run", "validation loss"]), st.lists(WORD).map(" ".join))))
def test_facts_fit_too(facts: list[tuple[str, Any]]) -> None:
    assert all(cell_len(line.plain) <= 80 for line in pairs(facts, 80))
    assert len(pairs(facts, None)) == len(facts)


def test_what_says_least_goes_first_and_at_last_rows_become_cards() -> None:
    columns = ("id", Column("b", 1), Column("a", 2))
    row = ("i" * 30, "b" * 30, "a" * 30)
    assert table(columns, [row], 120).left_out == []
    assert table(columns, [row], 80).left_out == ["a"]
    assert table(columns, [row], 40).left_out == ["b", "a"]
    cards = table(("id", "other"), [("i" * 30, "o" * 30)] * 2, 40)
    card = ["id     " + "i" * 30, "other  " + "o" * 30]
    assert [line.plain for line in cards.lines] == [*card, "", *card]


def every_answer(door: Door) -> None:
    """What a busy installation says: long names, ids as they are, errors of a whole sentence."""
    letter = {**LETTER, "event_id": UUID, "error": ERROR, "service": "registry"}
    unsent = {"event_id": UUID, "topic": "replies.customer-relations", "state": "blocked", "attempts": 1_204}
    unsent |= {"created_at": LETTER["handled_at"], "error": ERROR}
    versions = [{**VERSION, "number": n, "state": "rejected", "reasons": [ERROR]} for n in (1, 12)]
    door.answers |= {
        **ANSWERS,
        ("GET", "/api/data/datasets"): {"datasets": [{**BUILD, "model": LONG, "id": f"build-{UUID}"}] * 3},
        ("GET", "/api/data/datasets/build-1"): {**BUILD, "detail": ERROR, "parents": ["e" * 64] * 9},
        ("GET", "/api/trainer/runs"): {"runs": [{**RUN, "id": f"run-{UUID}", "model": LONG}, RUN]},
        ("GET", "/api/trainer/runs/run-1"): {**RUN, "reason": ERROR, "curve": RUN["curve"] * 100},
        ("GET", "/api/registry/models"): {"models": [{**MODEL, "name": LONG}, MODEL]},
        ("GET", "/api/registry/models/support/versions"): {"versions": versions},
        ("GET", "/api/registry/models/support/versions/1"): {
            **VERSION,
            "reasons": [ERROR] * 3,
            "verdicts": [{"gate": "champion", "verdict": "fail", "value": 0.7, "bar": 0.79, "reason": ERROR}],
        },
        ("GET", "/api/registry/models/support/aliases"): {"events": [{**MOVED, "reason": ERROR}] * 3},
        ("GET", "/api/serving/rollouts"): {
            "rollouts": [rollout_view(rollout(model=name)) for name in ("support", LONG)],
            "has_more": False,
        },
        ("GET", f"/api/serving/rollouts/{ID}"): document(rollout()),
        ("GET", "/api/monitor/drifts"): {"drifts": [drift(), drift(model=LONG)], "has_more": False},
        ("GET", "/api/monitor/drifts/drift-0199"): {**drift(), "window": window_view(window())},
        ("POST", "/api/registry/replay"): PLAN,
        ("POST", "/api/trainer/dead-letters/redrive"): DRY,
        ("GET", f"/api/trainer/dead-letters/{UUID}"): letter,
    }
    door.answers |= more_answers()
    for service in SERVICES:
        door.answers["GET", f"/api/{service}/dead-letters"] = {"dead_letters": [letter] * 2, "next": None}
        door.answers["GET", f"/api/{service}/outbox"] = {"unsent": [unsent]}
        door.answers["GET", f"/api/{service}/consumers"] = {"consumers": [RUNNING, STOPPED, QUARANTINE]}


COMMANDS = [
    ("evaluations", "list"),
    ("evaluations", "show", "eval-1"),
    ("files", "list"),
    ("files", "show", "file-1"),
    ("policy", "list"),
    ("policy", "show", "support"),
    ("policy", "schema"),
    ("policy", "diff", "support", "examples/support/policy.yaml"),
    ("runs", "compare", "run-1", f"run-{UUID}"),
    ("datasets", "list"),
    ("datasets", "show", "build-1"),
    ("runs", "list"),
    ("runs", "show", "run-1"),
    ("models", "list"),
    ("models", "show", "support"),
    ("models", "show", "support:1"),
    ("rollouts", "list"),
    ("rollouts", "show", ID),
    ("drifts", "list"),
    ("drifts", "show", "drift-0199"),
    ("dlq", "list"),
    ("dlq", "show", "trainer", UUID),
    ("dlq", "redrive", "--service", "trainer", "--dry-run"),
    ("outbox", "list"),
    ("consumers", "list"),
    ("events", "replay", "--from", "x", "--service", "registry"),
    ("--help",),
    ("runs", "--help"),
    ("events", "search", "--help"),
]
_ESCAPES = re.compile("\x1b\\[[0-9;]*m")
_TIME = re.compile(r"(\d{4}-)?\d\d-\d\d \d\d:\d\d(:\d\d)?")
_COPIED = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[a-f0-9]{12,}|\d+(?:[.,:]\d+)+")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_fits_80_columns_and_cuts_nothing(
    driftwheel: Command, door: Door, command: tuple[str, ...]
) -> None:
    every_answer(door)
    narrow = driftwheel(*command, TTY_COMPATIBLE="1", COLUMNS="80").stdout
    lines = _ESCAPES.sub("", narrow).splitlines()
    assert lines
    assert [line for line in lines if cell_len(line) > 80] == []
    piped = driftwheel(*command, COLUMNS="80").stdout
    assert "…" not in narrow + piped
    known = set(_COPIED.findall(_TIME.sub("", piped)))
    for line in lines:
        assert set(_COPIED.findall(_TIME.sub("", line))) <= known, line


@pytest.mark.parametrize("columns", ["20", "80"])
def test_a_pipe_gets_whole_lines(driftwheel: Command, door: Door, columns: str) -> None:
    every_answer(door)
    lines = driftwheel("dlq", "list", COLUMNS=columns).stdout.splitlines()
    assert len(lines) == 1 + 2 * len(SERVICES)
    assert all(UUID in line and ERROR in line and line == line.rstrip() for line in lines[1:])


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(7e-06), "0.000007"),
        (number(3e04), "30,000"),
        (number(0.12345, 4), "0.1235"),
        (number(0.9999), "1"),
        (number(-0.25), "-0.25"),
        (number(2.0), "2"),
        (money(0.0021, "EUR"), "0.0021 EUR"),
        (money(7e-06, "EUR"), "0.0000070 EUR"),
        (money(1_234.5, "EUR"), "1,234.50 EUR"),
        (money(0, "EUR"), "0.00 EUR"),
        (amount("latency_p99_ms", 3e04), "30,000 ms"),
        (amount("error_rate", 0.125), "12.5 %"),
        (amount("text_domain", 0.657), "0.657"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text


@given(st.floats(0, 1e12))
def test_no_number_has_an_exponent(value: float) -> None:
    assert "e" not in number(value) + money(value, "")


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_say_their_zone(berlin: None, driftwheel: Command, door: Door) -> None:
    assert when("2026-07-01T23:30:00+00:00") == ("2026-07-02 01:30:00 CEST", "07-02 01:30 CEST")
    assert at("2026-01-01T12:00:00Z") == "2026-01-01 13:00:00 CET"
    assert clock_in_zone("2026-01-01T12:00:00.125Z") == "13:00:00.125 CET"
    assert clock_in_zone("soon") == "–"
    every_answer(door)
    assert "2026-01-01 13:00:00 CET" in driftwheel("runs", "list").stdout
    assert "2026-01-01T12:00:00+00:00" in driftwheel("runs", "list", "--json").stdout


def test_an_event_is_told_in_whole_values() -> None:
    payload = {"model": "support", "run_id": f"run-{UUID}", "digest": "d" * 64, "step": 12_345, "none": ""}
    assert summary(payload, None) == f"model=support  run_id=run-{UUID}  step=12345"
    assert summary(payload, 40) == "model=support …"
    assert summary("no document", None) == "body=no document"
