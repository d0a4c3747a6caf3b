"""Who may speak for a model, and what a retraining waits for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data.domain import Labelled, Voices, author_cap, choose, missing, usable
from shared.contracts.policy import Policy, RetrainGovernor


def label(number: int, actor: str, corrected: str | None = "yes") -> Labelled:
    return Labelled(f"answer-{number}", f"feedback-{number}", "key", number, corrected, actor)


@pytest.mark.parametrize(
    ("labels", "share", "cap"),
    [
        ([], 0.5, 0),
        ([5], 1.0, 5),
        ([5], 0.99, 0),
        ([5, 3], 0.5, 3),
        ([90, 5, 5], 0.5, 10),
        ([90, 5, 5], 0.3, 0),
        ([1000] + [1] * 99, 0.01, 1),
        ([10, 10, 10, 10], 0.25, 10),
    ],
)
def test_the_author_cap(labels: list[int], share: float, cap: int) -> None:
    assert author_cap(labels, share) == cap


authors = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.none() | st.just("right")).map(lambda pair: label(0, *pair)),
    max_size=40,
)


@given(authors, st.floats(0, 1))
def test_no_author_exceeds_the_share(labels: list[Labelled], share: float) -> None:
    chosen = choose(labels, share)
    kept = [*chosen.corrected, *chosen.own]
    assert len(kept) + len(chosen.refused) == len(labels)
    assert all(number <= share * len(kept) + 1e-9 for number in Counter(item.actor for item in kept).values())
    counts = Counter(item.actor for item in labels)
    voices = [Voices(counts[a], sum(i.corrected is not None for i in labels if i.actor == a)) for a in counts]
    assert usable(voices, share) == len(chosen.corrected)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0.01, 1))
def test_the_cap_is_the_largest_that_is_fair(labels: list[int], share: float) -> None:
    fair = [cap for cap in range(1, max(labels) + 1) if cap <= share * sum(min(n, cap) for n in labels)]
    assert author_cap(labels, share) == max(fair, default=0)


def test_newest_labels_and_corrections_are_taken_first() -> None:
    labels = [label(1, "a", None), label(2, "a"), label(3, "a"), label(4, "b"), label(5, "b", None)]
    chosen = choose(labels, 0.5)
    assert [item.answer_id for item in chosen.corrected] == ["answer-2", "answer-3", "answer-4"]
    assert [item.answer_id for item in chosen.own] == ["answer-5"]
    assert [item.answer_id for item in chosen.refused] == ["answer-1"]


def test_a_retraining_waits_until_enough_corrections_are_there() -> None:
    policy = Policy(model="support", retrain=RetrainGovernor(min_corrected=3))
    assert missing(policy, 3) is None
    assert "2 of 3" in (missing(policy, 2) or "")
    assert "apply" in (missing(None, 100) or "")
