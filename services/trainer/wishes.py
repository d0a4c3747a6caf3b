"""What somebody wants trained, and what makes it acceptable."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from services.trainer.domain import Declared, digest_of, price
from shared.contracts.errors import Invalid
from shared.contracts.events import Fault, TrainingRequested
from shared.contracts.policy import Budget, Recipe
from shared.contracts.text import place


class Wish(NamedTuple):
    """What somebody wants trained, whichever way it came.

    Attributes:
        recipe: instead of the declared one.
        overrides: fields that replace those of the declared recipe.
        again: a run that failed or was cancelled may be tried anew.
    """

    model: str
    dataset_digest: str
    why: str
    created_by: str
    recipe: Recipe | None = None
    overrides: Mapping[str, Any] = {}
    budget: float | None = None
    priority: int = 0
    drift_id: str | None = None
    idempotency_key: str | None = None
    labels: Mapping[str, str] = {}
    again: bool = False


class Facts(NamedTuple):
    """What a wish is judged by. `tokens` are those of one epoch, estimated from the dataset's size."""

    methods: Collection[str]
    base_name: str
    base_digest: str
    dataset_base: str | None
    train_rows: int | None
    tokens: int
    tokens_per_second: float


BYTES_PER_TOKEN = 6.0
"""Of a dataset's JSONL, its field names included (6.1 on short chat rows, more on long ones); the job counts exactly."""


def check(wish: Wish, recipe: Recipe, declared: Declared, facts: Facts) -> None:
    """Raises Invalid with the reason and the next step if the wish must not cost any compute."""
    budget = Budget.stored(declared.budget)
    if recipe.method not in facts.methods:
        raise Invalid(
            f"There is no training method `{recipe.method}`.",
            f"Set recipe.method to one of {', '.join(sorted(facts.methods))}.",
        )
    if declared.base != facts.base_name:
        raise Invalid(
            f"This trainer has the base `{facts.base_name}`, the policy wants `{declared.base}`.",
            "Change `base` in the policy, or send the event to a trainer with that base.",
        )
    if facts.dataset_base not in (None, facts.base_digest):
        raise Invalid(
            "The dataset was built for another base model.",
            "Build it again with the base model that is installed now.",
        )
    if facts.train_rows == 0:
        raise Invalid("The training split is empty.", "Upload more rows and build the dataset again.")
    over_budget(
        facts.tokens * recipe.epochs / facts.tokens_per_second,
        limit(wish.budget, budget),
        budget.device_hour,
        budget.currency,
    )


def recipe_of(wish: Wish, declared: Declared) -> Recipe:
    """The recipe of a wish. Raises Invalid, saying which field is wrong and why, never what was sent."""
    changes = dict(wish.overrides)
    fields = (wish.recipe.model_dump(mode="json") if wish.recipe else declared.recipe) | changes
    multiplier = fields.pop("learning_rate_multiplier", 1.0)
    try:
        recipe = Recipe.model_validate(fields)
        rate = recipe.learning_rate * multiplier
        return Recipe.model_validate(recipe.model_dump() | {"learning_rate": rate})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise refusal(Fault(f"recipe.{place(first['loc'])}", first["msg"])) from None


def refusal(fault: Fault) -> Invalid:
    """The answer to a request with a fault: the field, what is wrong with it, and what it may be."""
    allowed = _allowed(fault.field)
    detail = f"{fault.field}: {fault.problem}{f' (allowed: {allowed})' if allowed else ''}."
    return Invalid(detail, "Correct the field and send it again; the policy shows a whole recipe.")


def _allowed(field: str) -> str:
    """The range of a number, as in `1 to 256` or `above 0, at most 1`; empty where there is none."""
    document, name = (Recipe, field[7:]) if field.startswith("recipe.") else (TrainingRequested, field)
    schema = document.model_json_schema()["properties"].get(name, {})
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f"{low} to {high}"
    floor = f"above {above}" if above is not None else f"at least {low}" if low is not None else ""
    return ", ".join(part for part in (floor, f"at most {high}" if high is not None else "") if part)


def over_budget(device_seconds: float, most: float, device_hour: float, currency: str) -> None:
    """Raises Invalid if a run of this length costs more than it may."""
    amount = price(device_seconds, device_hour)
    if not amount <= most:
        raise Invalid(
            f"The run is estimated at {amount:.2f} {currency}, above its budget of {most:.2f}.",
            "Raise budget.per_run, or train fewer epochs or rows.",
        )


def limit(asked: float | None, budget: Budget) -> float:
    """A request may lower the declared budget, never raise it."""
    return min(asked, budget.per_run) if asked is not None else budget.per_run


def recipe_hash(recipe: Recipe) -> str:
    return digest_of(recipe.model_dump(mode="json"))


def run_id(wish: Wish, recipe: Recipe, base_digest: str, round_: int) -> str:
    """The same wish has the same id everywhere, so that its adapter has the same digest."""
    return (
        f"run-{digest_of([wish.model, wish.dataset_digest, recipe_hash(recipe), base_digest, round_])[:24]}"
    )
