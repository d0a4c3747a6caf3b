"""Every wish is answered once, and the same wish is one run."""

import asyncio
import json
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from services.trainer.handlers import make_handlers
from services.trainer.store import Store
from services.trainer.wishes import Wish
from shared.contracts.errors import Conflict, RetryLater
from shared.contracts.events import ModelRejected, TrainingRequested
from shared.contracts.policy import Budget, Recipe
from shared.delivery.bus import make_broker
from shared.delivery.handling import Done, Handling, Tries
from shared.jobs.attempts import Attempt
from tests.kit import until
from tests.service.trainer.conftest import MODEL, TINY, World, cause, ready

REPLIES = "replies.pipeline"


def request(key: str = "k-1", **fields: Any) -> TrainingRequested:
    return TrainingRequested.received({"model": MODEL, "idempotency_key": key, **fields})


async def set_state(world: World, run_id: str, state: str, reason: str = "") -> None:
    async with world.db.unit_of_work() as work:
        await work.execute(
            "UPDATE run SET state = :state, reason = :reason WHERE id = :id",
            {"state": state, "reason": reason, "id": run_id},
        )


async def test_a_dataset_announced_five_times_is_trained_once(world: World) -> None:
    await world.declare()
    event = ready(await world.dataset(), drift_id="drift-1")
    await world.tell(*[event] * 5)
    (run,) = await world.runs()
    assert await world.jobs() == [run.id]
    (answer,) = await world.sent("training.status")
    assert (answer["state"], answer["run_id"], answer["drift_id"]) == ("accepted", run.id, "drift-1")
    assert (run.recipe, run.state, run.why) == (TINY.model_dump(mode="json"), "queued", "drift")


async def test_a_dataset_waits_for_its_policy(world: World) -> None:
    digest = await world.dataset()
    with pytest.raises(RetryLater):
        await world.tell(ready(digest))
    await world.declare()
    await world.tell(ready(digest))
    assert len(await world.runs()) == 1


async def test_an_older_policy_does_not_replace_a_newer_one(world: World) -> None:
    await world.declare(TINY.model_copy(update={"epochs": 5.0}), revision=3)
    await world.declare(TINY, revision=2)
    await world.tell(ready(await world.dataset()))
    assert (await world.runs())[0].recipe["epochs"] == 5.0


async def test_a_request_is_answered_where_it_asked_too(world: World) -> None:
    await world.declare()
    recipe = TINY.model_copy(update={"seed": 5})
    await world.tell(
        request(dataset_digest=await world.dataset(), recipe=recipe, budget=0.5, reply_topic=REPLIES)
    )
    (run,) = await world.runs()
    assert (run.recipe["seed"], run.budget) == (5, 0.5)
    for topic in ("training.status", REPLIES):
        (answer,) = await world.sent(topic)
        assert (answer["state"], answer["run_id"], answer["idempotency_key"]) == ("accepted", run.id, "k-1")


async def test_the_same_key_is_the_same_run_and_may_not_say_something_else(world: World) -> None:
    await world.declare()
    digest = await world.dataset()
    await world.tell(request(dataset_digest=digest), request(dataset_digest=digest))
    await world.tell(request(dataset_digest=digest, priority=5, reply_topic=REPLIES))
    assert len(await world.runs()) == len(await world.jobs()) == 1
    assert await world.states() == ["accepted", "accepted", "rejected"]
    (answer,) = await world.sent(REPLIES)
    assert "idempotency key was used for another request" in answer["reason"]
    assert answer["run_id"] is None


async def test_two_keys_for_the_same_work_are_one_run(world: World) -> None:
    await world.declare()
    digest = await world.dataset()
    await world.tell(
        request("k-1", dataset_digest=digest), request("k-2", dataset_digest=digest, reply_topic=REPLIES)
    )
    (run,) = await world.runs()
    (answer,) = await world.sent(REPLIES)
    assert (answer["run_id"], answer["idempotency_key"]) == (run.id, "k-2")


@pytest.mark.parametrize(
    ("fields", "policy", "reason"),
    [
        ({"files": ["file-1"]}, {}, "POST /datasets"),
        ({"dataset_digest": "0" * 64}, {}, "no dataset with this digest"),
        ({"recipe": Recipe(method="full")}, {}, "no training method `full`"),
        ({"model": "unknown"}, {}, "not declared"),
        ({}, {"base": "other"}, "the policy wants `other`"),
        ({"budget": 1e-9}, {"budget": Budget(device_hour=100)}, "above its budget"),
    ],
)
async def test_a_refused_request_is_answered_with_reason_and_next_step(
    world: World, fields: dict[str, Any], policy: dict[str, Any], reason: str
) -> None:
    await world.declare(**policy)
    source = (
        {} if "files" in fields or "dataset_digest" in fields else {"dataset_digest": await world.dataset()}
    )
    await world.tell(request(reply_topic=REPLIES, **source, **fields))
    assert await world.runs() == []
    for topic in ("training.status", REPLIES):
        (answer,) = await world.sent(topic)
        assert (answer["state"], answer["idempotency_key"]) == ("rejected", "k-1")
        assert reason in answer["reason"]


async def test_a_request_that_is_out_of_range_is_answered_not_buried(world: World) -> None:
    await world.declare()
    wanted = {"dataset_digest": await world.dataset(), "reply_topic": REPLIES}
    await world.tell(request(**wanted, recipe={"learning_rate": 5}))
    assert await world.runs() == []
    for topic in ("training.status", REPLIES):
        (answer,) = await world.sent(topic)
        assert (answer["state"], answer["idempotency_key"], answer["dataset_digest"]) == (
            "rejected",
            "k-1",
            wanted["dataset_digest"],
        )
        assert answer["reason"].startswith("recipe.learning_rate: ")
        assert "above 0, at most 1" in answer["reason"]
    await world.tell(request(**wanted))
    assert await world.states() == ["rejected", "accepted"], "the key is free for the corrected request"


async def test_a_dataset_for_another_base_is_refused(world: World) -> None:
    await world.declare()
    await world.tell(ready(await world.dataset(base_digest="f" * 64), drift_id="d-1"))
    (answer,) = await world.sent("training.status")
    assert (answer["state"], answer["drift_id"]) == ("rejected", "d-1")
    assert "another base model" in answer["reason"]


async def test_a_rejected_key_may_be_used_again(world: World) -> None:
    digest = await world.dataset()
    await world.tell(request(dataset_digest=digest))
    await world.declare()
    await world.tell(request(dataset_digest=digest))
    assert await world.states() == ["rejected", "accepted"]


async def test_a_request_for_a_finished_run_hears_its_end(world: World) -> None:
    await world.declare()
    digest = await world.dataset()
    await world.tell(ready(digest))
    await set_state(world, (await world.runs())[0].id, "succeeded")
    await world.tell(request(dataset_digest=digest, reply_topic=REPLIES))
    assert await world.states(REPLIES) == ["accepted", "succeeded"]
    assert len(await world.runs()) == 1


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_only_an_explicit_request_tries_a_lost_run_again(world: World, state: str) -> None:
    await world.declare()
    digest = await world.dataset()
    await world.tell(ready(digest))
    first = (await world.runs())[0].id
    await set_state(world, first, state, "out of luck")
    await world.tell(ready(digest))
    assert len(await world.runs()) == 1
    await world.tell(request(dataset_digest=digest))
    again = (await world.runs())[-1]
    assert (again.round, again.state) == (2, "queued")
    assert await world.jobs() == [first, again.id]
    await world.tell(request("k-2", dataset_digest=digest))
    assert len(await world.runs()) == 2


async def test_many_at_once_make_one_run(world: World) -> None:
    await world.declare()
    wish = Wish(MODEL, await world.dataset(), "request", created_by="tester")

    async def submit() -> str:
        async with world.db.unit_of_work(cause()) as work:
            return (await world.service.submit(work, wish)).id

    assert len(set(await asyncio.gather(*[submit() for _ in range(10)]))) == 1
    assert len(await world.jobs()) == 1
    assert await world.states() == ["accepted"]


async def test_a_rejected_version_is_remembered_on_its_run(world: World) -> None:
    run_id = await world.queued()
    verdict = {"model_version": 2, "adapter_digest": "a" * 64, "reasons": ("worse",), "remedy": "more rows"}
    await world.tell(ModelRejected(model=MODEL, run_id=run_id, **verdict))
    await world.tell(ModelRejected(model=MODEL, run_id="run-of-someone-else", **verdict))
    assert (await world.run(run_id)).rejection == {
        "model_version": 2,
        "reasons": ["worse"],
        "remedy": "more rows",
    }


async def test_a_queued_run_is_cancelled_at_once_and_only_once(world: World) -> None:
    run_id = await world.queued()
    for _ in range(2):
        async with world.db.unit_of_work(cause()) as work:
            await world.service.cancel(work, run_id, "tester")
    run = await world.run(run_id)
    assert (run.state, run.reason) == ("cancelled", "cancelled by tester")
    assert run.finished_at is not None
    assert await world.states() == ["accepted", "cancelled"]


async def test_a_cancel_and_the_worker_of_the_run_do_not_wait_for_each_other(world: World) -> None:
    run_id = await world.queued()
    attempt = await Attempt.claim(world.db, run_id, None)
    begun = asyncio.Event()

    async def cancel() -> None:
        async with world.db.unit_of_work(cause()) as work:
            begun.set()
            await world.service.cancel(work, run_id, "tester")

    async with attempt.work() as work:
        cancelling = asyncio.create_task(cancel())
        await begun.wait()
        await until(lambda: waits_for_a_lock(world), "a cancel that waits")
        assert await Store(work.session).run(run_id, lock=True)
    await cancelling
    assert (await world.run(run_id)).state == "cancelled"


async def waits_for_a_lock(world: World) -> bool:
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with world.db.unit_of_work() as work:
        return bool((await work.execute(blocked)).scalar_one())


@pytest.mark.parametrize("state", ["succeeded", "failed"])
async def test_an_ended_run_cannot_be_cancelled(world: World, state: str) -> None:
    run_id = await world.queued()
    await set_state(world, run_id, state)
    with pytest.raises(Conflict):
        async with world.db.unit_of_work(cause()) as work:
            await world.service.cancel(work, run_id, "tester")


async def test_a_request_over_a_limit_of_its_source_is_answered_and_others_are_taken(world: World) -> None:
    """As the consumer of the running service decides, without Kafka: over the quota, and larger than a message may be."""
    limits = world.settings.model_copy(
        update={"training_requests_per_minute": 2, "foreign_message_bytes": 2_000}
    )
    broker = make_broker(limits, world.db, "trainer", [make_handlers(world.service)])
    consumer = broker.consumers[TrainingRequested.topic]
    handling, offsets = Handling("trainer", world.db, limits), iter(range(100))
    await world.declare()
    digest = await world.dataset()

    async def asks(source: str, key: str, padding: int = 0) -> str:
        body = {"model": MODEL, "idempotency_key": key, "dataset_digest": digest, "reply_topic": REPLIES}
        named = {"ce_id": key, "ce_source": source, "ce_type": TrainingRequested.ce_type()}
        record = ConsumerRecord(
            TrainingRequested.topic,
            0,
            next(offsets),
            1_750_000_000_000,
            1,
            None,
            json.dumps(body).encode() + b" " * padding,
            None,
            0,
            1,
            [(name, value.encode()) for name, value in named.items()],
        )
        done = await handling.one(record, consumer._call, Tries(), consumer._refused)
        assert isinstance(done, Done)
        assert done.outcome == "handled", done.reason
        (answer,) = [one for one in await world.sent(REPLIES) if one["idempotency_key"] == key]
        return f"{answer['state']}: {answer['reason']}"

    said = [await asks("/eager", f"eager-{n}") for n in range(4)]
    assert [one.partition(":")[0] for one in said] == ["accepted", "accepted", "rejected", "rejected"]
    assert "more than 2 of these in a minute" in said[3]
    assert (await asks("/patient", "patient-1")).startswith("accepted")
    assert "more than 2000 bytes" in await asks("/wordy", "wordy-1", padding=3_000)
