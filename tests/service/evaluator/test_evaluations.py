"""One adapter from `model.trained` to one `model.evaluated`, on real PostgreSQL and S3 with a small model."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from services.evaluator.job import Evaluator
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import RetryLater, Superseded
from shared.contracts.policy import Gate
from shared.jobs.attempts import Attempt
from shared.service.clock import SystemClock
from tests.conftest import S3Store
from tests.service.evaluator.conftest import MODEL, World, conversation, rows, wanted

Make = Callable[..., Path]


class Interrupted(S3Objects):
    """The real store, with something happening right after the report is published and before it is announced."""

    def __init__(self, s3: S3Store, then: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(s3.endpoint, *s3.key("evaluator"))
        self._then = then

    async def create(self, bucket: str, key: str, data: bytes) -> bool:
        created = await super().create(bucket, key, data)
        await self._then()
        return created


async def test_an_adapter_is_measured_judged_and_announced(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(25))
    await world.declare()
    await world.tell(world.trained(adapter, dataset))
    name = wanted(adapter, dataset)
    assert await world.deferred() == [name]
    await world.evaluate(name)
    (event,) = await world.announced()
    assert (event["evaluation_id"], event["verdict"], event["drift_id"]) == (name, "pass", "drift-1")
    assert [(one["gate"], one["verdict"]) for one in event["verdicts"]] == [
        ("floor", "pass"),
        ("calm", "pass"),
        ("no-forgetting", "pass"),
    ]
    assert {(one["subject"], one["split"]) for one in event["scores"]} == {
        ("base", "test"),
        ("few_shot", "test"),
        ("candidate", "test"),
    }
    assert {one["metric"] for one in event["scores"]} >= {
        "exact_match",
        "token_f1",
        "rouge_l",
        "bleu",
        "loss",
    }
    data = await world.objects.get(event["report"]["bucket"], event["report"]["key"])
    assert hashlib.sha256(data).hexdigest() == event["report"]["sha256"]
    report = json.loads(data)
    assert report["adapter_digest"] == adapter
    assert len(report["samples"]["test"]) == 20
    assert report["golden"]
    for one in report["golden"]:
        assert one["answer"].strip() != one["base_answer"].strip()
        assert one["max_tokens"] == 6
        assert one["messages"][-1]["role"] == "user"
    view = await world.look(name)
    assert (view["state"], view["verdict"], view["model"]) == ("done", "pass", MODEL)
    assert view["report"] == event["report"]
    assert [
        one["id"]
        for one in (await world.http.get("/evaluations", params={"model": MODEL})).json()["evaluations"]
    ] == [name]


async def test_asking_twice_is_one_evaluation(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.declare()
    event = world.trained(adapter, dataset)
    await world.tell(event, event)
    assert len(await world.deferred()) == 1
    await world.evaluate(wanted(adapter, dataset))
    await world.evaluate(wanted(adapter, dataset))
    await world.tell(event)
    assert len(await world.announced()) == 1
    assert len(await world.deferred()) == 1


async def test_a_champion_is_compared_on_both_test_sets_and_nothing_is_answered_twice(
    world: World, make_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, old = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(first, old))
    await world.evaluate(wanted(first, old))
    second, new = await world.adapter(make_adapter(2)), await world.dataset(rows(20))
    await world.tell(world.promoted(1, first, old), world.trained(second, new))
    asked = _count_questions(monkeypatch)
    await world.evaluate(wanted(second, new, champion=1))
    # Base, few-shot base and champion know 12 of the 20 already; the candidate's 20 hold the champion's 12.
    assert sum(asked) == 8 + 8 + 8 + 20
    event = (await world.announced())[-1]
    assert event["champion_version"] == 1
    assert {(one["subject"], one["split"], one["n"]) for one in event["scores"]} == {
        ("base", "test", 20),
        ("few_shot", "test", 20),
        ("candidate", "test", 20),
        ("champion", "test", 20),
        ("champion", "champion_test", 12),
        ("candidate", "champion_test", 12),
    }
    report = await world.report(event["report"])
    assert report["champion"]["adapter_digest"] == first
    assert {one["rival"] for one in report["samples"]["test"]} == {"champion"}
    asked.clear()
    await world.declare(revision=2, gates=(Gate(name="other", at_least=0.0),))
    await world.tell(world.promoted(2, second, new), world.trained(first, new))
    await world.evaluate(wanted(first, new, champion=2))
    assert sum(asked) == 0


def _count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from services.evaluator.generate import LanguageModel

    asked: list[int] = []
    answer = LanguageModel.answer

    def counted(self: LanguageModel, adapter: str | None, batch: Any, *more: Any) -> Any:
        asked.append(len(batch))
        return answer(self, adapter, batch, *more)

    monkeypatch.setattr(LanguageModel, "answer", counted)
    return asked


async def test_a_champion_that_moved_is_compared_anew(world: World, make_adapter: Make, s3: S3Store) -> None:
    first, second = await world.adapter(make_adapter(1)), await world.adapter(make_adapter(2))
    dataset = await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(second, dataset))
    before, after = wanted(second, dataset), wanted(second, dataset, champion=1)

    async def promote() -> None:
        await world.tell(world.promoted(1, first, dataset))

    await world.evaluate(before, Interrupted(s3, promote))
    assert (await world.look(before))["state"] == "superseded"
    assert await world.announced() == []
    assert await world.deferred() == [before, after]
    await world.evaluate(after)
    assert [one["champion_version"] for one in await world.announced()] == [1]
    await world.evaluate(before)
    assert len(await world.announced()) == 1


async def test_a_champion_that_moved_before_the_start(world: World, make_adapter: Make) -> None:
    first, second = await world.adapter(make_adapter(1)), await world.adapter(make_adapter(2))
    dataset = await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(second, dataset), world.promoted(1, first, dataset, sequence=3))
    await world.tell(world.promoted(7, second, dataset, sequence=2))
    await world.evaluate(wanted(second, dataset))
    assert await world.deferred() == [wanted(second, dataset), wanted(second, dataset, champion=1)]


async def test_a_zombie_changes_nothing(world: World, make_adapter: Make, s3: S3Store) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(adapter, dataset))
    name = wanted(adapter, dataset)

    async def overtake() -> None:
        await world.evaluate(name)

    with pytest.raises(Superseded):
        await world.evaluate(name, Interrupted(s3, overtake))
    assert len(await world.announced()) == 1


async def test_without_a_policy_the_job_waits(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.tell(world.trained(adapter, dataset))
    with pytest.raises(RetryLater):
        await world.evaluate(wanted(adapter, dataset))
    await world.declare()
    await world.evaluate(wanted(adapter, dataset))
    assert len(await world.announced()) == 1


async def test_too_few_rows_are_insufficient(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(9))
    await world.declare()
    await world.tell(world.trained(adapter, dataset))
    await world.evaluate(wanted(adapter, dataset))
    (event,) = await world.announced()
    assert event["verdict"] == "insufficient"
    assert "9 held-out rows on test, 10 are needed" in event["verdicts"][0]["reason"]


async def ruined(world: World, make_adapter: Make, how: str) -> tuple[str, str, str | None]:
    """Adapter, dataset and claimed base of an evaluation that cannot succeed."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    adapter, dataset, base = await world.adapter(make_adapter(1)), await world.dataset(rows(12)), None
    if how == "other base":
        base = "f" * 64
    elif how == "no dataset":
        dataset = "e" * 64
    elif how == "no adapter":
        adapter = "e" * 64
    elif how == "altered dataset":
        dataset = await world.dataset(rows(12, 500))
        await world.admin.put("datasets", f"sha256/{dataset}/test.jsonl", rows(1)[0].encode())
    elif how == "no test split":
        from shared.artifacts.objects import publish

        dataset = (await publish(world.admin, "datasets", {"train.jsonl": b""}, {})).digest
    elif how == "not a conversation":
        dataset = await world.dataset(["{}"])
    elif how == "huge weights":
        folder = make_adapter(5)
        file = folder / "adapter_model.safetensors"
        save_file({key: np.full_like(value, 3e38) for key, value in load_file(file).items()}, file)
        adapter = await world.adapter(folder)
    elif how == "no effect":
        adapter = await world.adapter(make_adapter(6, strength=0.0))
    elif how == "empty test split":
        dataset = await world.dataset([])
    return adapter, dataset, base


@pytest.mark.parametrize(
    ("how", "reason", "verdict"),
    [
        ("other base", "trained on another base model", "fail"),
        ("no dataset", "no such object", "fail"),
        ("no adapter", "no such object", "fail"),
        ("altered dataset", "differs from its digest", "fail"),
        ("no test split", "has no test.jsonl", "fail"),
        ("not a conversation", "Line 0 of the split", "fail"),
        ("huge weights", "not finite", "fail"),
        ("no effect", "no effect", "fail"),
        ("empty test split", "0 held-out rows", "insufficient"),
    ],
)
async def test_what_cannot_be_evaluated_is_said(
    world: World, make_adapter: Make, how: str, reason: str, verdict: str
) -> None:
    adapter, dataset, base = await ruined(world, make_adapter, how)
    await world.declare()
    await world.tell(world.trained(adapter, dataset, base))
    await world.evaluate(wanted(adapter, dataset))
    (event,) = await world.announced()
    assert event["verdict"] == verdict
    assert reason in " ".join(one["reason"] for one in event["verdicts"])
    assert (await world.report(event["report"]))["adapter_digest"] == adapter
    assert (await world.look(wanted(adapter, dataset)))["state"] == "done"


async def test_giving_up_is_announced_once_as_insufficient(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(adapter, dataset))
    name = wanted(adapter, dataset)
    evaluator = Evaluator(world.objects, world.settings, SystemClock())
    for _ in range(2):
        attempt = await Attempt.claim(world.db, name, None)
        await evaluator.failed(attempt, "the worker died each time", name)
    (event,) = await world.announced()
    assert event["verdict"] == "insufficient"
    assert event["verdicts"][0]["reason"] == "the worker died each time"
    assert (await world.look(name))["state"] == "failed"
    await world.evaluate(name)
    assert len(await world.announced()) == 1


async def test_unreadable_kept_outputs_are_generated_again(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(12))
    await world.declare()
    await world.tell(world.trained(adapter, dataset), world.trained(adapter, await world.dataset(rows(13))))
    await world.evaluate(wanted(adapter, dataset))
    first = (await world.announced())[0]
    for key in await world.objects.keys("evaluations", "outputs/"):
        await world.objects.put("evaluations", key, b'{"row": NaN}')
    again = wanted(adapter, await world.dataset(rows(13)))
    await world.evaluate(again)
    assert first["verdict"] == (await world.announced())[1]["verdict"] == "pass"


async def test_long_few_shot_prompts_are_shortened_to_the_context(world: World, make_adapter: Make) -> None:
    long = [conversation(f"{n} " + "word " * 300, f"intent {n}") for n in range(20)]
    adapter = await world.adapter(make_adapter(1))
    dataset = await world.dataset(rows(12), train=long)
    await world.declare(few_shot=16)
    await world.tell(world.trained(adapter, dataset))
    await world.evaluate(wanted(adapter, dataset))
    (event,) = await world.announced()
    assert event["verdict"] == "pass"
