"""kill -9 anywhere in the loop: it still ends with one dataset, one run, one model, one promotion."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.loop import Platform, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]


async def at_once(_platform: Platform, _model: str) -> bool:
    return True


async def while_building(platform: Platform, model: str) -> Any:
    found = await platform.get("/api/data/datasets", model=model)
    return (found or {}).get("datasets")


async def while_training(platform: Platform, model: str) -> Any:
    """An epoch is under way: some steps are done, some are not."""
    return [run for run in await platform.runs(model) if run["state"] == "running" and run["step"] > 0]


async def at_a_checkpoint(platform: Platform, model: str) -> Any:
    """A checkpoint was just asked for: the step is at, or right after, a multiple of checkpoint_every."""
    return [run for run in await platform.runs(model) if run["state"] == "running" and run["step"] >= 4]


async def after_training(platform: Platform, model: str) -> Any:
    return [run for run in await platform.runs(model) if run["state"] == "succeeded"]


async def while_evaluating(platform: Platform, model: str) -> Any:
    found = await platform.get("/api/evaluator/evaluations", model=model)
    return (found or {}).get("evaluations")


async def once_approved(platform: Platform, model: str) -> Any:
    return (await platform.get(f"/api/registry/models/{model}/versions") or {}).get("versions")


Moment = Callable[[Platform, str], Awaitable[Any]]
CASES: list[tuple[str, Moment]] = [
    # What works long, what answers, and what carries the events, in every run of the suite; all the rest by `make chaos`.
    ("data-worker", while_building),
    ("trainer-worker", while_training),
    ("evaluator-worker", while_evaluating),
    ("serving", once_approved),
    ("kafka", while_training),
]
SOAK: list[tuple[str, Moment]] = [
    ("data", at_once),
    ("registry", while_evaluating),
    ("postgres", while_evaluating),
    ("trainer", at_once),
    ("trainer", while_training),
    ("trainer-worker", at_a_checkpoint),
    ("evaluator", after_training),
    ("engine", once_approved),
    ("monitor", at_once),
    ("kafka", while_evaluating),
    ("postgres", while_training),
]


def _cases() -> list[Any]:
    often = [pytest.param(part, moment, id=f"{part}-{moment.__name__}") for part, moment in CASES]
    seldom = [
        pytest.param(part, moment, id=f"{part}-{moment.__name__}", marks=pytest.mark.soak)
        for part, moment in SOAK
    ]
    return often + seldom


@pytest.mark.parametrize(("part", "moment"), _cases())
async def test_the_loop_ends_once(platform: Platform, part: str, moment: Moment) -> None:
    model = f"m-{part}-{moment.__name__}".replace("_", "-")
    await platform.declare(model)
    await platform.upload(model)
    await until(lambda: moment(platform, model), f"{moment.__name__} of {model}", pause=0.05)
    platform.stack.kill(part)

    async def promoted() -> bool:
        return await platform.champion(model) == 1

    await until(promoted, f"the promotion of {model}:1 after {part} died", 300)
    platform.stack.wait_ready(part, 120)
    counts = {
        topic: len(await platform.events(topic, model))
        for topic in ("dataset.ready", "model.trained", "model.evaluated", "model.approved", "model.promoted")
    }
    assert set(counts.values()) == {1}, counts
    assert [run["state"] for run in await platform.runs(model)] == ["succeeded"]
    answer = await platform.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": "what is my balance"}],
            "max_tokens": 4,
        },
    )
    assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
