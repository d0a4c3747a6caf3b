"""What the monitor does when something is missing, altered, hostile, slow or twice."""

import asyncio
import json

import pytest

from services.monitor.domain import DATASETS, PREDICTIONS
from services.monitor.store import Store
from shared.artifacts.objects import S3Objects, object_key, publish
from shared.contracts.errors import Superseded
from shared.contracts.events import LineRef
from shared.contracts.policy import DriftPolicy
from shared.jobs.attempts import Attempt
from tests.service.monitor import events
from tests.service.monitor.conftest import BANK, TRAVEL, World, asked, jsonl, log_texts, publish_dataset
from tests.service.monitor.events import MODEL, declared, promoted, scored, served


async def test_lost_texts_leave_drift_unknown_but_quality_known(world: World) -> None:
    gone = LineRef(bucket=PREDICTIONS, key="support/never-written.jsonl", line=0)
    answers = [served(f"a-{n}", gone) for n in range(events.WINDOW)]
    await world.tell(*answers, *(scored(answer, 0.0) for answer in answers))
    await world.look()
    [window] = await world.windows()
    assert (window["drifted"], window["hurt"], window["score"]) == (None, True, None)
    assert "0 of 40 answers have a readable prompt" in window["notes"]
    assert await world.verdicts() == ["watch"]


async def test_texts_are_read_only_where_they_belong_and_only_if_they_name_their_answer(world: World) -> None:
    """An event may name any bucket, key and line; what it names must be the text of that answer."""
    ids = [f"a-{n}" for n in range(events.WINDOW)]
    dataset_key = object_key(world.dataset, "train.jsonl")
    elsewhere = [LineRef(bucket=DATASETS, key=dataset_key, line=n) for n in range(10)]
    foreign = await log_texts(world.admin_objects, [f"other-{n}" for n in range(10)], ["mine"] * 10)
    beyond = [LineRef(bucket=PREDICTIONS, key=foreign[0].key, line=1_000 + n) for n in range(10)]
    lines = [
        b"{",
        b'{"answer_id": 7}',
        b"\xff\xfe",
        b"[" * 5_000,
        b"null",
        b'{"answer_id": "a-35", "messages": 1}',
    ]
    key = "support/broken.jsonl"
    await world.admin_objects.put(PREDICTIONS, key, b"\n".join(lines))
    broken = [LineRef(bucket=PREDICTIONS, key=key, line=n) for n in range(10)]
    places = [*elsewhere, *foreign, *beyond, *broken]
    await world.tell(*(served(i, place) for i, place in zip(ids, places, strict=True)))
    await world.look()
    [window] = await world.windows()
    assert "0 of 40 answers have a readable prompt" in window["notes"]


async def altered(objects: S3Objects) -> str:
    digest = await publish_dataset(objects, 100)
    await objects.put(DATASETS, object_key(digest, "train.jsonl"), jsonl([{"messages": asked("mine")}] * 100))
    return digest


async def without_rows(objects: S3Objects) -> str:
    return (await publish(objects, DATASETS, {"test.jsonl": b""}, {"model": MODEL})).digest


async def empty(objects: S3Objects) -> str:
    return (await publish(objects, DATASETS, {"train.jsonl": b""}, {"model": MODEL})).digest


async def missing(_objects: S3Objects) -> str:
    return "d" * 64


@pytest.mark.parametrize("make", [altered, without_rows, empty, missing])
async def test_a_training_set_that_cannot_be_trusted_is_not_compared_with(world: World, make: object) -> None:
    digest = await make(world.admin_objects)  # type: ignore[operator]
    await world.tell(promoted(digest, sequence=2))
    await world.live_through(TRAVEL, right=0.0)
    [window] = await world.windows()
    assert (window["state"], window["drifted"], window["hurt"]) == ("measured", None, True)
    assert await world.verdicts() == ["watch"]


async def test_a_big_training_set_is_sampled_the_same_way_each_time(world: World) -> None:
    from services.monitor.texts import reference

    first = await reference(world.admin_objects, world.dataset, 100)
    assert first == await reference(world.admin_objects, world.dataset, 100)
    everything = await reference(world.admin_objects, world.dataset, 10_000)
    assert len(first) == 100
    assert len(everything) == 480
    assert set(first) < set(everything)
    assert first != everything[:100]


async def test_a_window_that_cannot_be_measured_fails_and_the_next_goes_on(world: World) -> None:
    await world.tell(declared(2, DriftPolicy(detector="no-such-detector", window_predictions=events.WINDOW)))
    await world.live_through(TRAVEL, right=0.0)
    [window] = await world.windows()
    assert window["state"] == "failed"
    assert "no-such-detector" in window["notes"][0]
    await world.tell(declared(3))
    await world.live_through(TRAVEL, right=0.0)
    assert await world.verdicts() == ["retrain"]


async def test_a_measurement_that_is_lost_does_not_block_the_watch(quiet: World) -> None:
    await quiet.tell(*(await quiet.answers(BANK)))
    await quiet.watch.tick()
    await quiet.tell(*(await quiet.answers(BANK)))
    await quiet.watch.tick()
    assert [window["state"] for window in await quiet.windows()] == ["measuring"]
    quiet.later(3_600)
    await quiet.watch.tick()
    assert [window["state"] for window in await quiet.windows()] == ["measuring", "failed"]


async def the_open_window(world: World) -> str:
    answers = await world.answers(TRAVEL)
    await world.tell(*answers, *(scored(answer, 0.0) for answer in answers))
    await world.watch.tick()
    [window] = await world.windows()
    return str(window["id"])


async def test_a_zombie_changes_nothing(quiet: World) -> None:
    window_id = await the_open_window(quiet)
    zombie = await Attempt.claim(quiet.db, window_id, None)
    heir = await Attempt.claim(quiet.db, window_id, None)
    with pytest.raises(Superseded):
        await quiet.measuring.run(zombie, window_id)
    with pytest.raises(Superseded):
        await quiet.measuring.failed(zombie, "late", window_id)
    assert [window["state"] for window in await quiet.windows()] == ["measuring"]
    await quiet.measuring.run(heir, window_id)
    await quiet.measuring.run(await Attempt.claim(quiet.db, window_id, None), window_id)
    await quiet.measuring.failed(await Attempt.claim(quiet.db, window_id, None), "late", window_id)
    assert [window["state"] for window in await quiet.windows()] == ["measured"]
    assert await quiet.verdicts() == ["retrain"]


async def test_two_workers_on_one_window_say_one_thing(quiet: World) -> None:
    window_id = await the_open_window(quiet)
    attempts = [await Attempt.claim(quiet.db, window_id, None) for _ in range(2)]
    outcomes = await asyncio.gather(
        *(quiet.measuring.run(attempt, window_id) for attempt in attempts),
        *(quiet.watch.tick() for _ in range(3)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Superseded)
    assert outcomes[1:] == [None] * 4
    assert await quiet.verdicts() == ["retrain"]


async def test_a_champion_that_changes_meanwhile_is_not_judged_by_the_old_window(quiet: World) -> None:
    window_id = await the_open_window(quiet)
    await quiet.tell(promoted(quiet.dataset, sequence=2, version=2))
    await quiet.measuring.run(await Attempt.claim(quiet.db, window_id, None), window_id)
    await quiet.watch.tick()
    assert [window["state"] for window in await quiet.windows()] == ["measured"]
    assert await quiet.verdicts() == []


async def test_an_interrupted_commit_announces_nothing_and_the_next_try_does(quiet: World) -> None:
    """A crash between the row of the verdict and its commit: both are gone, and both come with the next attempt."""
    window_id = await the_open_window(quiet)
    attempt = await Attempt.claim(quiet.db, window_id, None)
    with pytest.raises(ZeroDivisionError):
        async with attempt.work() as work:
            window = await Store(work).window(window_id, lock=True)
            assert window is not None
            window.state, window.score, window.bar = "measured", 0.9, 0.6
            await work.session.flush()
            await quiet.watch.judge(work, MODEL)
            assert (await work.execute("SELECT count(*) FROM drift")).scalar() == 0  # not flushed yet
            await work.flush()
            assert (await work.execute("SELECT count(*) FROM drift")).scalar() == 1
            raise ZeroDivisionError
    assert await quiet.verdicts() == []
    assert (await quiet.get("/drifts"))["drifts"] == []
    await quiet.measuring.run(await Attempt.claim(quiet.db, window_id, None), window_id)
    assert await quiet.verdicts() == ["retrain"]


async def test_a_hostile_prompt_is_kept_out_of_events_and_pages(world: World) -> None:
    attack = "</script><script>alert(document.cookie)</script> take me on holiday"
    texts = [f"{attack} {n}" for n in range(events.WINDOW)]
    ids = [f"a-{n}" for n in range(events.WINDOW)]
    places = await log_texts(world.admin_objects, ids, texts)
    answers = [served(i, place) for i, place in zip(ids, places, strict=True)]
    await world.tell(*answers, *(scored(answer, 0.0) for answer in answers))
    await world.look()
    assert "script" not in json.dumps(await world.detected())
    [window] = await world.windows()
    assert "script" not in json.dumps(window)
    page = await world.http.get(window["page"])
    assert page.headers["content-disposition"] == f'attachment; filename="{window["id"]}.html"'
    assert page.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert attack in page.text
