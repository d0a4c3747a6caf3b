"""Killed anywhere, a run ends with the very bytes of a run that was left alone."""

import asyncio
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

import pytest

from services.trainer.checkpoints import Checkpoints, Place
from services.trainer.domain import ADAPTERS, CHECKPOINTS
from services.trainer.job import Trainer
from shared.contracts.policy import Recipe
from shared.service.clock import SystemClock
from tests.service.trainer.conftest import TINY, World, ready

FAST = TINY.model_copy(update={"batch_size": 16, "checkpoint_every": 2, "evaluate_every": 2})
"""3 steps an epoch, 6 in all, checkpoints at 2 and 4."""
LORA = FAST.model_copy(update={"method": "lora", "dropout": 0.1, "learning_rate": 0.02})


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Mortal:
    """The object store; the process ends just before (or after) its nth call that `counts`."""

    def __init__(
        self, world: World, nth: int, counts: Callable[[str, str, str], bool], after: bool = False
    ) -> None:
        self._objects = world.objects
        self._left = nth
        self._counts = counts
        self._after = after

    def __getattr__(self, name: str) -> Any:
        if not iscoroutinefunction(getattr(self._objects, name)):
            return getattr(self._objects, name)  # a stream

        async def call(bucket: str, key: str, *args: Any) -> Any:
            self._left -= self._counts(name, bucket, key)
            if self._left == 0 and not self._after:
                raise Killed
            result = await getattr(self._objects, name)(bucket, key, *args)
            if self._left == 0:
                raise Killed
            return result

        return call


def writes(name: str, bucket: str, _key: str) -> bool:
    return name in {"put", "create", "upload", "delete"} and bucket in {CHECKPOINTS, ADAPTERS}


def trainer(world: World, objects: Any = None) -> Trainer:
    return Trainer(objects or world.objects, world.settings, SystemClock())


async def whole(world: World, run_id: str) -> bytes:
    """Run it to its end without disturbance."""
    await trainer(world).run(await world.attempt(run_id), run_id)
    run = await world.run(run_id)
    assert run.state == "succeeded", run.reason
    return await world.weights(run_id)


async def start_over(world: World) -> None:
    async with world.db.unit_of_work() as work:
        await work.execute("TRUNCATE run, entry, request, outbox, attempts, procrastinate_jobs CASCADE")


def saves(name: str, bucket: str, _key: str) -> bool:
    return name == "put" and bucket == CHECKPOINTS


async def killed_at(
    world: World, run_id: str, nth: int, after: bool = False, counts: Callable[[str, str, str], bool] = writes
) -> bool:
    """One attempt that ends at its nth write; False if it came to its end before."""
    try:
        await trainer(world, Mortal(world, nth, counts, after)).run(await world.attempt(run_id), run_id)
    except Killed:
        return True
    return False


@pytest.mark.parametrize(("recipe", "stride"), [(FAST, 2), (LORA, 6)], ids=["rehearsal", "lora"])
async def test_killed_at_every_write_the_run_ends_with_the_same_adapter(
    world: World, recipe: Recipe, stride: int
) -> None:
    """Every write to the store in turn, just before or just after it. LoRA has dropout, so its generator counts."""
    run_id = await world.queued(recipe)
    expected, digest = await whole(world, run_id), (await world.run(run_id)).adapter_digest
    kills, nth = 0, 1
    while True:
        await start_over(world)
        assert await world.queued(recipe) == run_id
        await world.objects.delete(ADAPTERS, f"sha256/{digest}/manifest.json")
        if not await killed_at(world, run_id, nth, after=kills % 2 == 1):
            break
        kills, nth = kills + 1, nth + stride
        assert await whole(world, run_id) == expected
        assert (await world.run(run_id)).adapter_digest == digest
        assert len(await world.sent("model.trained")) == 1
        assert await world.checkpoints(run_id) == []
    assert kills * stride >= 3 + 3 + 5, "two checkpoints of three files each, and an adapter of five"


async def test_killed_again_and_again_it_still_ends_with_the_same_adapter(world: World) -> None:
    """Each attempt saves one checkpoint and dies right after it."""
    recipe = FAST.model_copy(update={"checkpoint_every": 1})
    run_id = await world.queued(recipe)
    expected = await whole(world, run_id)
    await start_over(world)
    await world.queued(recipe)
    attempts = 0
    while await killed_at(world, run_id, 4, counts=saves):
        attempts += 1
        assert attempts < 20
    run = await world.run(run_id)
    assert (run.state, run.attempt) == ("succeeded", attempts + 1)
    assert attempts >= 4, "more than may die without a checkpoint"
    assert await world.weights(run_id) == expected


async def interrupted(world: World) -> tuple[str, bytes]:
    """A run that died at its end, with two checkpoints left; and the adapter it should make."""
    run_id = await world.queued(LORA)
    expected = await whole(world, run_id)
    digest = (await world.run(run_id)).adapter_digest
    await world.objects.delete(ADAPTERS, f"sha256/{digest}/manifest.json")
    await start_over(world)
    await world.queued(LORA)
    counts = Mortal(world, 1, lambda name, bucket, _: bucket == ADAPTERS and name == "put")
    with pytest.raises(Killed):
        await trainer(world, counts).run(await world.attempt(run_id), run_id)
    places = {key.rpartition("/")[0] for key in await world.checkpoints(run_id)}
    assert len(places) == 2
    return run_id, expected


async def test_a_damaged_checkpoint_is_passed_over(world: World) -> None:
    run_id, expected = await interrupted(world)
    newest = max(key for key in await world.checkpoints(run_id) if key.endswith(".safetensors"))
    data = await world.objects.get(CHECKPOINTS, newest)
    await world.objects.put(CHECKPOINTS, newest, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    assert await whole(world, run_id) == expected
    started = [s for s in await world.sent("training.status") if s["state"] == "started"]
    assert started[-1]["step"] == 2, "the one of step 4 was refused"


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "altered", "empty", "foreign"])
async def test_only_whole_and_unaltered_checkpoints_are_offered(world: World, file: str, damage: str) -> None:
    checkpoints, run_id = Checkpoints(world.objects), "run-of-this-test"
    older, newer = ({"state.safetensors": f"{step}".encode() * 9, "state.json": b"{}"} for step in (1, 2))
    await checkpoints.save(run_id, Place(1, 1), older)
    await checkpoints.save(run_id, Place(2, 1), newer)
    key = Place(2, 1).prefix(run_id) + file
    data = await world.objects.get(CHECKPOINTS, key)
    changed = {"cut": data[:-1], "altered": b"x" + data[1:], "empty": b"", "foreign": b"[]"}
    if damage == "missing":
        await world.objects.delete(CHECKPOINTS, key)
    else:
        await world.objects.put(CHECKPOINTS, key, changed[damage])
    offered = [(place, files) async for place, files in checkpoints.whole(run_id)]
    assert offered == [(Place(1, 1), older)]


async def test_the_newest_is_that_of_the_latest_step_then_of_the_latest_attempt(world: World) -> None:
    checkpoints, run_id = Checkpoints(world.objects), "run-of-this-test"
    for place in (Place(9, 3), Place(10, 1), Place(10, 2), Place(2, 4)):
        await checkpoints.save(run_id, place, {"state.json": b"{}"})
    found = [place async for place, _ in checkpoints.whole(run_id)]
    assert found == [Place(10, 2), Place(10, 1), Place(9, 3), Place(2, 4)]


async def test_a_checkpoint_of_other_shapes_is_not_used(world: World) -> None:
    """Whole and unaltered, but not of this run: it is passed over and nothing of it is taken."""
    run_id, expected = await interrupted(world)
    other = await world.queued(LORA.model_copy(update={"rank": 2, "alpha": 4, "seed": 1}))
    with pytest.raises(Killed):
        counts = Mortal(world, 1, lambda name, bucket, _: bucket == ADAPTERS and name == "put")
        await trainer(world, counts).run(await world.attempt(other), other)
    async for _place, files in Checkpoints(world.objects).whole(other):
        await Checkpoints(world.objects).save(run_id, Place(5, 9), files)
        break
    assert await whole(world, run_id) == expected


async def test_checkpoints_of_ended_runs_are_swept(world: World) -> None:
    run_id, _ = await interrupted(world)
    async with world.db.unit_of_work() as work:
        await work.execute("UPDATE run SET state = 'failed'")
    other = await world.queued(TINY)
    await trainer(world).run(await world.attempt(other), other)
    assert await world.checkpoints(run_id) == []


async def test_only_the_newest_checkpoints_are_kept(world: World) -> None:
    run_id = await world.queued(FAST.model_copy(update={"checkpoint_every": 1}))
    kept: list[int] = []
    original = Checkpoints.prune

    async def counting(self: Checkpoints, run: str, keep: int) -> None:
        await original(self, run, keep)
        kept.append(len({key.rpartition("/")[0] for key in await world.checkpoints(run)}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "prune", counting)
        await trainer(world).run(await world.attempt(run_id), run_id)
    assert kept == [1, *[2] * 4]


async def test_two_runs_at_once_do_not_disturb_each_other(world: World) -> None:
    """Two workers, two runs: neither's sweep may take the other's checkpoints."""
    await world.declare(TINY)
    await world.tell(ready(await world.dataset()), ready(await world.dataset(train=40)))
    ids = [run.id for run in await world.runs()]
    attempts = [await world.attempt(run_id) for run_id in ids]
    await asyncio.gather(*[trainer(world).run(a, run_id) for a, run_id in zip(attempts, ids, strict=True)])
    assert [(await world.run(run_id)).state for run_id in ids] == ["succeeded"] * 2


async def test_cost_grows_over_attempts(world: World) -> None:
    run_id = await world.queued(TINY)
    assert await killed_at(world, run_id, 4)
    spent = (await world.run(run_id)).device_seconds
    assert spent > 0
    await whole(world, run_id)
    assert (await world.run(run_id)).device_seconds > spent
