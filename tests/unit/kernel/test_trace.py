"""The story of an event, merged from what each service knows."""

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from shared.trace import merge, render


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
    roots = merge([PARTS[1]])
    assert [root.event_id for root in roots] == ["e1"]
    assert roots[0].source == "data"


def test_the_terminal_shows_the_dead_and_the_silent() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(merge(PARTS), unreachable=["serving"]))
    text = console.export_text()
    assert "serving did not answer" in text
    assert "✖ evaluator dead: broken" in text
    assert "model.trained" in text


def test_nothing_known_is_said() -> None:
    console = Console(record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(merge([])))
    assert "Nothing is known" in console.export_text()
