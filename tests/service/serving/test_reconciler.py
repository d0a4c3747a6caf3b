"""Wanted state and a real engine: loaded, probed, restored, refused when ruined, dropped when unused."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from services.serving import reconciler, store
from services.serving.admission import BaseSpec
from services.serving.domain import Adapter, Snapshot
from services.serving.engines import ENGINES, EngineClient
from services.serving.last_known import LastKnown
from services.serving.live import Live
from services.serving.reconciler import Reconciler
from services.serving.settings import Settings
from shared.artifacts.objects import ObjectStore, S3Objects
from shared.contracts.errors import Unavailable
from shared.contracts.events import ModelApproved, RolloutChanged
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.small_engine import (
    RANK,
    SmallEngine,
    adapter_files,
    golden,
    publish_adapter,
    publish_evidence,
    until,
)
from tests.service.serving.story import Story, approved, engine_name, promoted


class Hanging(S3Objects):
    """A store that takes every call and answers none."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "", "")

    async def get(self, bucket: str, key: str) -> bytes:
        return await asyncio.get_running_loop().create_future()


@dataclass
class Bench:
    """A story, its reconciler, and the engine."""

    story: Story
    reconciler: Reconciler
    engine: SmallEngine
    client: EngineClient
    store: ObjectStore
    settings: Settings
    base: BaseSpec
    known: Sequence[Adapter] = ()

    async def approves(self, version: int, ruin: str = "", **more: Any) -> ModelApproved:
        """Publish an adapter with its evidence and approve it."""
        files = adapter_files(self.engine.base, version, ruin)
        folder = self.settings.adapter_cache.parent / f"trained-{version}"
        folder.mkdir()
        sound = files if not ruin else adapter_files(self.engine.base, version)
        for name, content in sound.items():
            (folder / name).write_bytes(content)
        known = {
            "adapter_digest": await publish_adapter(self.store, files, version),
            "base_digest": self.base.digest,
            "evidence": await publish_evidence(
                self.store, await golden(self.client, folder, f"golden-{version}")
            ),
        }
        event = approved(version, **(known | more))
        await self.story.hears(event)
        return event

    async def reconciles(self) -> None:
        await self.story.looks()
        await self.reconciler.reconcile()
        await self.reconciler.report()
        await self.story.looks()
        async with self.story.db.unit_of_work() as work:
            self.known = await store.adapters(work, None)

    def state(self, version: int) -> tuple[str, str]:
        found = next(one for one in self.known if one.model_version == version)
        return found.state, found.reason


@pytest.fixture
async def bench(
    db: Database,
    objects: S3Objects,
    s3: Any,
    small_engine: SmallEngine,
    make_settings: Callable[..., Settings],
) -> AsyncIterator[Bench]:
    settings = make_settings(
        engine="transformers", engine_url=small_engine.url, base_model=small_engine.base, max_rank=RANK
    )
    settings.adapter_cache.mkdir(parents=True)
    await small_engine.ready()
    story, base = Story.begin(db, objects), BaseSpec.read(small_engine.base)
    async with ENGINES["transformers"](small_engine.url) as client:
        for name in await client.loaded():
            await client.unload(name)
        reconciler = Reconciler(settings, client, objects, db, story.service, story.live, base)
        admin = S3Objects(s3.endpoint, *s3.key("admin"))
        yield Bench(story, reconciler, small_engine, client, admin, settings, base)


async def test_an_approved_adapter_is_loaded_probed_and_rolled_out(bench: Bench) -> None:
    await bench.approves(1)
    await bench.reconciles()
    assert bench.state(1) == ("probed", "")
    assert await bench.client.loaded() == {engine_name(1)}
    for _ in range(2):
        await bench.story.ticks()
    assert [event.state for event in await sent(bench.story.db, RolloutChanged)] == ["started", "completed"]
    assert bench.story.live.problems() == []


@pytest.mark.parametrize(
    ("ruin", "reason"),
    [
        ("not finite", "not finite"),
        ("no effect", "0 of 8 golden answers are as the evaluator saw them, 8 are the base's"),
    ],
)
async def test_a_ruined_adapter_is_refused_and_its_rollout_ends(bench: Bench, ruin: str, reason: str) -> None:
    await bench.approves(1, ruin)
    await bench.reconciles()
    state, why = bench.state(1)
    assert state == "refused"
    assert reason in why
    assert await bench.client.loaded() == set()
    (event,) = await sent(bench.story.db, RolloutChanged)
    assert (event.state, event.weight) == ("rolled_back", 0)
    assert reason in event.reason
    await bench.reconciles()
    assert await bench.client.loaded() == set()
    assert list(bench.settings.adapter_cache.iterdir()) == []


async def test_an_adapter_of_another_base_is_refused(bench: Bench) -> None:
    await bench.approves(1, base_digest="0" * 64)
    await bench.reconciles()
    assert bench.state(1)[0] == "refused"
    assert "another base model" in bench.state(1)[1]


async def test_evidence_of_another_version_is_refused(bench: Bench) -> None:
    first = await bench.approves(1)
    await bench.approves(2, evidence=first.evidence)
    await bench.story.hears(
        promoted(1, 1, **first.model_dump(include={"adapter_digest", "base_digest", "evidence"}))
    )
    await bench.reconciles()
    assert bench.state(1)[0] == "probed"
    assert bench.state(2)[0] == "refused"
    assert bench.story.live.problems() == []


async def test_an_altered_file_in_the_cache_is_fetched_again(bench: Bench) -> None:
    event = await bench.approves(1)
    folder = bench.settings.adapter_cache / event.adapter_digest
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_bytes(b"{}")
    await bench.reconciles()
    assert bench.state(1) == ("probed", "")


async def test_an_engine_that_came_back_empty_gets_everything_loaded_and_probed_again(bench: Bench) -> None:
    event = await bench.approves(1)
    await bench.story.hears(
        promoted(1, 1, **event.model_dump(include={"adapter_digest", "base_digest", "evidence"}))
    )
    await bench.reconciles()
    assert bench.story.live.problems() == []
    bench.reconciler._engine = ENGINES["transformers"]("http://127.0.0.1:1")
    await bench.reconciles()
    assert bench.story.live.problems() == ["the engine does not answer"]
    assert bench.story.live.ready == frozenset()
    with pytest.raises(Unavailable):
        bench.story.live.table.choose("support", "ann")
    await bench.client.unload(engine_name(1))
    bench.reconciler._engine = bench.client
    await bench.reconciles()
    assert bench.story.live.problems() == []
    assert await bench.client.loaded() == {engine_name(1)}
    assert bench.story.live.table.choose("support", "ann").target.version == 1


async def test_a_restart_of_serving_probes_what_the_engine_kept(bench: Bench) -> None:
    await bench.approves(1)
    await bench.reconciles()
    again = Reconciler(
        bench.settings,
        bench.client,
        bench.store,
        bench.story.db,
        bench.story.service,
        bench.story.live,
        bench.base,
    )
    bench.story.live.set_ready(frozenset())
    await again.reconcile()
    assert bench.story.live.ready == {engine_name(1)}


async def test_what_nobody_wants_is_unloaded_when_nobody_waits_for_it(bench: Bench) -> None:
    events = [await bench.approves(version) for version in (1, 2, 3)]
    same = [event.model_dump(include={"adapter_digest", "base_digest", "evidence"}) for event in events]
    await bench.story.hears(promoted(1, 1, **same[0]), promoted(2, 2, **same[1]))
    await bench.reconciles()
    names = {engine_name(version) for version in (1, 2, 3)}
    assert await bench.client.loaded() == names
    await bench.story.hears(promoted(3, 3, **same[2]))
    bench.story.live.in_flight[engine_name(1)] = 1
    await bench.reconciles()
    assert await bench.client.loaded() == names
    assert bench.story.live.ready == names - {engine_name(1)}
    bench.story.live.in_flight[engine_name(1)] = 0
    await bench.reconciles()
    assert await bench.client.loaded() == names - {engine_name(1)}
    kept = {folder.name for folder in bench.settings.adapter_cache.iterdir()}
    assert kept == {event.adapter_digest for event in events[1:]}


async def test_while_the_store_is_away_an_adapter_waits_and_a_cached_one_returns(
    bench: Bench, objects: S3Objects
) -> None:
    event = await bench.approves(1)
    await bench.story.hears(
        promoted(1, 1, **event.model_dump(include={"adapter_digest", "base_digest", "evidence"}))
    )
    away = S3Objects("http://127.0.0.1:1", "", "")
    bench.reconciler._objects = away
    await bench.reconciles()
    assert bench.state(1)[0] == "wanted"
    bench.reconciler._objects = objects
    await until(lambda: _ready(bench))
    await bench.client.unload(engine_name(1))
    bench.reconciler._objects = away
    await bench.reconciles()
    assert bench.story.live.ready == {engine_name(1)}


async def _ready(bench: Bench) -> bool:
    await bench.reconciles()
    return engine_name(1) in bench.story.live.ready


async def test_nothing_is_unloaded_before_the_wanted_state_is_known(bench: Bench) -> None:
    await bench.approves(1)
    await bench.reconciles()
    bench.story.live.seen = False
    bench.story.live.snapshot = type(bench.story.live.snapshot)()
    await bench.reconciler.reconcile()
    assert await bench.client.loaded() == {engine_name(1)}
    bench.story.live.fresh = False  # what was in force before this process: the database may know better
    bench.story.live.recall(Snapshot())
    await bench.reconciler.reconcile()
    assert await bench.client.loaded() == {engine_name(1)}


async def test_a_process_that_starts_while_store_and_database_are_away_gets_its_adapters(
    bench: Bench,
) -> None:
    """Also into an engine that has forgotten them."""
    event = await bench.approves(1)
    await bench.story.hears(
        promoted(1, 1, **event.model_dump(include={"adapter_digest", "base_digest", "evidence"}))
    )
    await bench.reconciles()
    last_known = LastKnown(bench.settings.state_folder)
    last_known.save(bench.story.live.snapshot)
    for forgotten in (False, True):
        if forgotten:
            await bench.client.unload(engine_name(1))
        live = Live("base", base_answers=False)
        live.recall(last_known.load())
        away = Database("serving", "postgresql://nobody@127.0.0.1:1/nothing")
        store = S3Objects("http://127.0.0.1:1", "", "")
        again = Reconciler(bench.settings, bench.client, store, away, bench.story.service, live, bench.base)
        await again.reconcile()
        assert live.problems() == []
        assert live.table.choose("support", "ann").target.version == 1


async def test_a_store_that_hangs_keeps_no_adapter_out_that_is_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await bench.approves(1)
    same = event.model_dump(include={"adapter_digest", "base_digest", "evidence"})
    await bench.story.hears(promoted(1, 1, **same))
    await bench.reconciles()
    await bench.approves(2)
    await bench.client.unload(engine_name(1))
    monkeypatch.setattr(reconciler, "_FETCH_SECONDS", 0.2)
    bench.reconciler._objects = Hanging()
    async with asyncio.timeout(60):
        await bench.reconciles()
        await bench.reconciles()
    assert bench.story.live.ready == {engine_name(1)}
    assert bench.state(2)[0] == "wanted"
