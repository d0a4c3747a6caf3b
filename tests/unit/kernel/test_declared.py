"""What of an event may be searched and shown: declared ids and plain values, never what a person wrote."""

from typing import Any

import pytest

from shared.contracts.declared import MOST_REFERENCES, references, shown
from shared.contracts.events import (
    EVENTS,
    DatasetReady,
    FeedbackRecorded,
    ModelRejected,
    TrainingRequested,
    TrainingStatus,
)

DIGEST = "a" * 64
SECRET = "my-PIN-is-4711"


def test_ids_are_found_and_words_are_not() -> None:
    event = ModelRejected(
        model="support",
        model_version=2,
        run_id="r-1",
        adapter_digest=DIGEST,
        reasons=(SECRET,),
        remedy=SECRET,
    )
    assert references(event) == sorted(["r-1", DIGEST, "support:2"])
    assert shown(event) == {"model": "support", "model_version": 2, "run_id": "r-1", "adapter_digest": DIGEST}


def test_a_judgement_leaves_neither_its_words_nor_its_author() -> None:
    event = FeedbackRecorded(
        feedback_id="f", answer_id="a", model="support", score=0, corrected=SECRET, actor=SECRET
    )
    assert references(event) is None
    assert SECRET not in str(shown(event))


def test_what_the_platform_words_itself_is_shown() -> None:
    event = TrainingStatus(
        model="support", state="rejected", reason="The rank is too large.", idempotency_key="k"
    )
    assert shown(event)["reason"] == "The rank is too large."
    assert references(event) == ["k"]


def test_names_that_nobody_declared_count_for_nothing() -> None:
    wish: dict[str, Any] = {"model": "support", "idempotency_key": "k", "dataset_digest": DIGEST}
    event = TrainingRequested.model_validate(wish | {f"key-{n}": f"id-{n}" for n in range(20_000)})
    assert references(event) == sorted(["k", DIGEST])


def test_there_is_a_cap() -> None:
    event = DatasetReady(
        model="support",
        digest=DIGEST,
        generation=1,
        rows={"train": 1},
        parents=tuple(f"{n:064}" for n in range(500)),
        why="upload",
    )
    assert len(references(event) or ()) == MOST_REFERENCES


@pytest.mark.parametrize("event", EVENTS)
def test_free_text_is_never_shown(event: Any) -> None:
    from shared.contracts.declared import _ids, _shown

    free = {"actor", "corrected", "reasons", "remedy", "evidence", "policy", "recipe"}
    assert not free & {*_ids(event), *_shown(event)}
