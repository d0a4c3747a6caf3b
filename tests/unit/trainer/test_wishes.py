"""What is refused before it costs anything, and when two wishes are the same run."""

import re
from typing import Any

import pytest
from faststream import apply_types
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.trainer.domain import Declared
from services.trainer.wishes import Facts, Wish, check, limit, recipe_hash, recipe_of, refusal, run_id
from shared.contracts.errors import Invalid
from shared.contracts.events import TrainingRequested
from shared.contracts.policy import Budget, Recipe

BASE, DATASET = "b" * 64, "d" * 64
WISH = Wish("support", DATASET, "upload", created_by="test")
FACTS = Facts(
    methods=("lora",),
    base_name="default",
    base_digest=BASE,
    dataset_base=BASE,
    train_rows=480,
    tokens=20_000,
    tokens_per_second=500,
)
NAN, INF = float("nan"), float("inf")


def declared(**changes: Any) -> Declared:
    values: dict[str, Any] = {
        "model": "support",
        "revision": 1,
        "base": "default",
        "recipe": Recipe().model_dump(mode="json"),
        "budget": Budget().model_dump(mode="json"),
    }
    return Declared(**values | changes)


def test_a_good_wish_is_accepted() -> None:
    check(WISH, Recipe(), declared(), FACTS)
    check(WISH, Recipe(), declared(), FACTS._replace(dataset_base=None, train_rows=None))


@pytest.mark.parametrize(
    ("recipe", "policy", "facts", "reason"),
    [
        ({"method": "full"}, {}, {}, "no training method `full`"),
        ({}, {"base": "other"}, {}, "the policy wants `other`"),
        ({}, {}, {"dataset_base": "c" * 64}, "another base model"),
        ({}, {}, {"train_rows": 0}, "training split is empty"),
        ({}, {}, {"tokens": 10**9}, "above its budget"),
        ({}, {}, {"tokens_per_second": 1e-6}, "above its budget"),
        ({"epochs": 100}, {"budget": {"per_run": 0.05, "device_hour": 1.0}}, {}, "above its budget"),
    ],
)
def test_what_is_refused_before_any_compute(
    recipe: dict[str, Any], policy: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Invalid, match=reason) as refused:
        check(WISH, Recipe(**recipe), declared(**policy), FACTS._replace(**facts))
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("learning_rate", value) for value in (0, -1, 1e30, 1.1, NAN, INF, -INF, "fast", None)],
        *[("rank", value) for value in (0, -1, 257, 10**6, 1.5, "16x", None)],
        *[("epochs", value) for value in (0, -1, 101, 1e9, NAN, INF)],
        *[("batch_size", value) for value in (0, -1, 4_097, 2.5)],
        *[("max_length", value) for value in (0, 7, 10**6)],
        *[("dropout", value) for value in (-0.1, 1.1, NAN)],
        *[("targets", value) for value in ([], "q_proj", ["../q"], ["q_proj\n"], [""], [1])],
        *[("method", value) for value in ("", "LORA", "../lora", "lora\n", 1)],
        *[("seed", value) for value in (-1, 2**31, 0.5)],
        *[("patience", 0), ("evaluate_every", 0), ("checkpoint_every", 0), ("warmup_share", 2)],
        *[("alpha", value) for value in (0, 2_049, 129)],
        ("learning_rate_multiplier", 1e9),
        ("base", "https://example.org/model"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_field_and_without_its_value(field: str, value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        recipe_of(WISH._replace(overrides={field: value}), declared())
    assert refused.value.detail.startswith("recipe")
    assert "example.org" not in str(refused.value)


REQUEST = {
    "model": "support",
    "idempotency_key": "k-1",
    "dataset_digest": DATASET,
    "reply_topic": "replies.pipeline",
}


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"recipe": {"rank": 0}}, r"recipe\.rank: .*\(allowed: 1 to 256\)"),
        ({"recipe": {"learning_rate": 1e30}}, r"recipe\.learning_rate: .*\(allowed: above 0, at most 1\)"),
        ({"recipe": {"patience": 0}}, r"recipe\.patience: .*\(allowed: 1 to 1000000000\)"),
        ({"recipe": {"rank": 1, "alpha": 9}}, "recipe: .*alpha/rank must be at most 8"),
        ({"recipe": {"base": "https://example.org"}}, r"recipe\.base: Extra inputs"),
        ({"recipe": {"targets": ["https://example.org"]}}, r"recipe\.targets\.0: "),
        ({"recipe": "https://example.org"}, "recipe: "),
        ({"priority": 99}, r"priority: .*\(allowed: -10 to 10\)"),
        ({"files": ["file-1"]}, "the body: .*exactly one of dataset_digest and files"),
    ],
)
def test_a_request_with_a_fault_is_read_and_its_answer_names_the_field_and_the_range(
    part: dict[str, Any], reason: str
) -> None:
    event = TrainingRequested.received(REQUEST | part)
    assert event.fault
    answer = refusal(event.fault)
    assert re.match(reason, answer.detail)
    assert "example.org" not in str(answer)
    assert (event.model, event.idempotency_key, event.reply_topic) == ("support", "k-1", "replies.pipeline")
    with pytest.raises(ValidationError):
        TrainingRequested(**REQUEST | part)


def test_a_request_without_a_fault_has_none_and_a_bad_address_is_not_answered() -> None:
    assert TrainingRequested.received(REQUEST).fault is None
    astray = TrainingRequested.received(REQUEST | {"reply_topic": "model.approved"})
    assert (astray.fault is not None, astray.reply_topic) == (True, None)


async def test_a_request_with_a_fault_reaches_its_handler() -> None:
    """The handler's argument is validated once more by the framework; the fault must survive that."""
    got: list[TrainingRequested] = []

    async def handler(event: TrainingRequested) -> None:
        got.append(event)

    document = {**REQUEST, "dataset_digest": "nonsense"}
    await apply_types(handler)(event=TrainingRequested.received(document))
    (event,) = got
    assert (event.fault is not None, event.dataset_digest) == (True, None)


@pytest.mark.parametrize("lost", [{"model": "../x"}, {"idempotency_key": ""}, {"model": None}])
def test_a_request_of_nobody_cannot_be_answered(lost: dict[str, Any]) -> None:
    documents: tuple[Any, ...] = (REQUEST | lost | {"recipe": {"rank": 0}}, {}, [], None)
    for document in documents:
        with pytest.raises(ValidationError):
            TrainingRequested.received(document)


def test_overrides_replace_fields_of_the_declared_recipe() -> None:
    policy = declared(recipe=Recipe(epochs=4, rank=8, alpha=16, learning_rate=0.01).model_dump(mode="json"))
    wish = WISH._replace(overrides={"epochs": 1, "learning_rate_multiplier": 0.5})
    assert recipe_of(wish, policy) == Recipe(epochs=1, rank=8, alpha=16, learning_rate=0.005)
    assert recipe_of(WISH._replace(recipe=Recipe(rank=4, alpha=8)), policy).rank == 4


@given(st.floats(0.001, 100), st.floats(0.001, 100))
def test_a_request_can_lower_the_budget_but_not_raise_it(declared_most: float, asked: float) -> None:
    budget = Budget(per_run=declared_most)
    assert limit(asked, budget) <= declared_most
    assert limit(None, budget) == declared_most


def test_the_same_wish_is_the_same_run_and_any_difference_is_another() -> None:
    one = run_id(WISH, Recipe(), BASE, 1)
    assert one == run_id(WISH._replace(why="drift", priority=3, created_by="else"), Recipe(), BASE, 1)
    others = {
        run_id(WISH._replace(model="other"), Recipe(), BASE, 1),
        run_id(WISH._replace(dataset_digest="e" * 64), Recipe(), BASE, 1),
        run_id(WISH, Recipe(epochs=3), BASE, 1),
        run_id(WISH, Recipe(), "c" * 64, 1),
        run_id(WISH, Recipe(), BASE, 2),
    }
    assert len(others | {one}) == 6


def test_a_recipe_has_one_hash_however_it_was_written() -> None:
    assert recipe_hash(Recipe(epochs=2)) == recipe_hash(Recipe.model_validate({"epochs": 2.0}))
