"""The story of an event, merged from what each service knows."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from services.console.causality import merge, spent
from services.console.story import render
from shared.contracts.stories import searched


def sent(event_id: str, topic: str, cause: str | None, at: str, **more: object) -> dict[str, object]:
    return {
        "event_id": event_id,
        "topic": topic,
        "causationid": cause,
        "created_at": at,
        "sent_at": at,
        "payload": {},
        **more,
    }


def handled(event_id: str, topic: str, cause: str | None, at: str, **more: object) -> dict[str, object]:
    row = {
        "event_id": event_id,
        "topic": topic,
        "causationid": cause,
        "source": "/data",
        "state": "done",
        "error": None,
    }
    return {**row, "recorded_at": at, "received_at": at, "handled_at": at, **more}


PARTS = [
    {
        "service": "data",
        "sent": [sent("e1", "dataset.ready", "req", "2026-01-01T00:00:01+00:00")],
        "handled": [],
    },
    {
        "service": "trainer",
        "sent": [sent("e2", "model.trained", "e1", "2026-01-01T00:00:03+00:00")],
        "handled": [handled("e1", "dataset.ready", "req", "2026-01-01T00:00:02+00:00")],
    },
    {
        "service": "evaluator",
        "sent": [],
        "handled": [
            handled("e2", "model.trained", "e1", "2026-01-01T00:00:04+00:00", state="dead", error="broken")
        ],
    },
]


def test_the_tree_follows_causes() -> None:
    (root,) = merge(PARTS)
    assert (root.event_id, root.source, [step.event_id for step in root.causes]) == ("e1", "data", ["e2"])


@given(st.permutations(PARTS))
def test_the_order_of_answers_does_not_matter(parts: list[dict[str, object]]) -> None:
    assert [step.to_json() for step in merge(parts)] == [step.to_json() for step in merge(PARTS)]


def test_a_silent_service_is_inferred_from_its_neighbours() -> None:
    (root,) = merge([PARTS[1]], ["data"])
    assert (root.event_id, root.source) == ("e1", "data")
    (root,) = merge([PARTS[0]], ["trainer"])
    assert {row["service"]: row["state"] for row in root.handled} == {"trainer": "unknown"}
    (root,) = merge([PARTS[0], {**PARTS[1], "handled": []}], ["trainer"])
    assert {row["service"]: row["state"] for row in root.handled} == {"trainer": "inferred"}


def test_the_time_of_a_story_is_told_apart() -> None:
    base = "2026-01-01T00:00:"
    cause = sent("e1", "dataset.ready", None, f"{base}00+00:00", sent_at=f"{base}01+00:00")
    took = handled(
        "e1",
        "dataset.ready",
        None,
        "",
        recorded_at=f"{base}01+00:00",
        received_at=f"{base}03+00:00",
        handled_at=f"{base}03.500+00:00",
    )
    job = {
        "causationid": "e1",
        "deferred_at": f"{base}03+00:00",
        "started_at": f"{base}10+00:00",
        "ended_at": f"{base}40+00:00",
    }
    parts = [
        {"service": "data", "sent": [cause], "handled": []},
        {
            "service": "trainer",
            "sent": [sent("e2", "model.trained", "e1", f"{base}40+00:00")],
            "handled": [took],
            "jobs": [job],
        },
    ]
    found = {kind: seconds for kind, seconds in spent(merge(parts)).items() if seconds}
    assert found == {"outbox": 1, "topic": 2, "handling": 0.5, "queue": 7, "training": 30}


def test_the_key_of_an_object_is_looked_for_by_its_digest() -> None:
    digest = "ab" * 32
    for key in (f"adapters/sha256/{digest}/adapter_model.safetensors", f"sha256/{digest}", digest):
        assert searched(key) == digest
    assert searched("support:2") == "support:2"


def test_the_terminal_shows_the_dead_and_the_silent() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(merge(PARTS), unreachable=["serving"]))
    text = console.export_text()
    assert "serving does not answer" in text
    assert "✖ evaluator dead: broken" in text
    assert "model.trained" in text


def test_nothing_known_is_said() -> None:
    console = Console(record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(merge([])))
    assert "Nothing is known" in console.export_text()


def test_what_one_of_us_is_said_to_have_sent_and_did_not_is_marked() -> None:
    forged = handled("f1", "feedback.recorded", None, "2026-01-01T00:00:02+00:00", source="/serving")
    genuine = handled("g1", "feedback.recorded", None, "2026-01-01T00:00:02+00:00", source="/serving")
    said = sent("g1", "feedback.recorded", None, "2026-01-01T00:00:01+00:00")
    data = {"service": "data", "sent": [], "handled": [forged, genuine]}
    serving = {"service": "serving", "sent": [said], "handled": []}
    assert {step.event_id: step.source for step in merge([data, serving])} == {
        "f1": "unverified/serving",
        "g1": "serving",
    }
    assert {step.source for step in merge([data])} == {"serving"}, "serving did not answer: nobody knows"
