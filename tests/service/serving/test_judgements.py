"""Judgements on their way: before their answer, at another replica, while the database is away, frozen or unknowing."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.serving import store
from services.serving.domain import Feedback, PendingFeedback
from services.serving.judgements import Accepted, Judgements
from services.serving.metrics import FEEDBACK
from services.serving.predictions import _row
from services.serving.service import made_at
from shared.artifacts.corrections import CORRECTIONS, read
from shared.artifacts.objects import S3Objects
from shared.contracts.envelope import new_id
from shared.contracts.errors import Conflict, Unavailable
from shared.contracts.events import FeedbackRecorded
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.story import Story, spool
from tests.service.serving.test_predictions import judged, served


def nowhere() -> Database:
    return Database("serving", "postgresql://nobody@127.0.0.1:1/nothing")


def count(outcome: str) -> float:
    return float(FEEDBACK.labels(outcome)._value.get())


async def test_another_replica_takes_a_judgement_and_joins_it_when_the_answer_is_written(
    db: Database, objects: S3Objects
) -> None:
    gave, other = Story.begin(db, objects), Story.begin(db, objects)
    gave.log.add(one := served())
    judgements = other.judgements()
    taken = await judgements.take(judged(one.event.answer_id, 0, "no"))
    assert isinstance(taken, PendingFeedback)
    assert await judgements.take(judged(one.event.answer_id, 0, "no")) == taken  # said again
    with pytest.raises(Conflict):
        await judgements.take(judged(one.event.answer_id, 1))
    await judgements.settle()
    assert await sent(db, FeedbackRecorded) == []
    await gave.log.flush()
    for _ in range(2):
        await judgements.settle()
    (event,) = await sent(db, FeedbackRecorded)
    assert (event.feedback_id, event.answer_id, event.model, event.score) == (
        taken.feedback_id,
        one.event.answer_id,
        "support",
        0,
    )
    assert await read(objects, [event.correction]) == {event.correction.sha256: "no"}
    assert isinstance(await judgements.take(judged(one.event.answer_id, 0, "no")), Feedback)


async def test_an_answer_that_never_comes_ends_the_waiting_and_is_counted(
    db: Database, objects: S3Objects
) -> None:
    story, before = Story.begin(db, objects), count("unknown")
    judgements = story.judgements()
    assert isinstance(await judgements.take(judged(new_id(), 1)), PendingFeedback)
    story.clock.advance(timedelta(seconds=3_599))
    await judgements.settle()
    assert count("unknown") == before
    story.clock.advance(timedelta(seconds=2))
    await judgements.settle()
    assert count("unknown") == before + 1
    async with db.unit_of_work() as work:
        assert (await work.execute("SELECT count(*) FROM pending_feedback")).scalar() == 0


async def test_while_the_database_is_away_a_judgement_waits_on_disk_and_survives_the_process(
    db: Database, objects: S3Objects, tmp_path: Path
) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    dying = spool(tmp_path)
    away = Judgements(story.service, nowhere(), objects, dying, 2, 3_600)
    taken = await away.take(judged(one.event.answer_id, 1))
    assert isinstance(taken, Accepted)
    with pytest.raises(Exception, match="connection"):
        await away.settle()
    dying.close()
    await story.log.flush()
    back = Judgements(story.service, db, objects, spool(tmp_path), 2, 3_600)
    await back.settle()
    await back.settle()
    (event,) = await sent(db, FeedbackRecorded)
    assert (event.feedback_id, event.answer_id, event.score) == (taken.feedback_id, one.event.answer_id, 1)


async def test_an_outage_may_last_longer_than_an_answer_is_waited_for(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    away = Judgements(story.service, nowhere(), objects, waiting := spool(), 2, 3_600)
    story.log.add(one := served())
    await away.take(judged(one.event.answer_id, 1))
    story.clock.advance(timedelta(hours=30))
    back = Judgements(story.service, db, objects, waiting, 30, 3_600)
    story.log._models.clear()  # as after a restart
    await back.settle()
    await story.log.flush()
    await back.settle()
    assert [event.answer_id for event in await sent(db, FeedbackRecorded)] == [one.event.answer_id]


async def test_a_database_that_hangs_costs_one_wait_only(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    judgements = Judgements(story.service, db, objects, spool(), 0.2, 3_600)
    async with db.unit_of_work() as work:
        await work.execute("LOCK TABLE feedback IN ACCESS EXCLUSIVE MODE")
        started = asyncio.get_running_loop().time()
        taken = [await judgements.take(judged(one.event.answer_id, 1, None, f"judge-{n}")) for n in range(20)]
        assert asyncio.get_running_loop().time() - started < 10
    assert all(isinstance(one, Accepted) for one in taken)
    await story.log.flush()
    async with asyncio.timeout(30):
        while judgements._given_up:
            await asyncio.sleep(0.01)
    await judgements.settle()
    events = await sent(db, FeedbackRecorded)
    assert {event.actor for event in events} == {f"judge-{n}" for n in range(20)}
    assert len(events) == 20


async def test_a_judgement_that_contradicts_an_earlier_one_is_settled_aloud(
    db: Database, objects: S3Objects
) -> None:
    story, before = Story.begin(db, objects), count("conflict")
    story.log.add(one := served())
    await story.judgements().take(judged(one.event.answer_id, 1))
    away = Judgements(story.service, nowhere(), objects, waiting := spool(), 2, 3_600)
    assert isinstance(await away.take(judged(one.event.answer_id, 0)), Accepted)
    await Judgements(story.service, db, objects, waiting, 30, 3_600).settle()
    assert count("conflict") == before + 1
    assert [event.score for event in await sent(db, FeedbackRecorded)] == [1]


async def test_where_neither_database_nor_disk_takes_it_the_caller_is_told(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    away = Judgements(story.service, nowhere(), objects, spool(limit=10), 2, 3_600)
    with pytest.raises(Unavailable, match="cannot be kept now"):
        await away.take(judged(new_id(), 1))


SECRET = "my card number is 4000 1234"


class Away(S3Objects):
    """A real store that is away until it is back."""

    away = True

    async def create(self, bucket: str, key: str, data: bytes) -> bool:
        if self.away:
            raise Unavailable("The object store does not answer.") from ConnectionError()
        return await super().create(bucket, key, data)


async def everything_kept(db: Database) -> str:
    async with db.unit_of_work() as work:
        tables = ("feedback", "pending_feedback", "outbox", "inbox", "dead_letters")
        found = [
            (await work.execute(f"SELECT to_jsonb({name})::text FROM {name}")).scalars() for name in tables
        ]
        bodies = (await work.execute("SELECT convert_from(body, 'UTF8') FROM outbox")).scalars()
        return "".join([*(row for rows in found for row in rows), *bodies])


async def test_what_a_user_wrote_is_in_the_store_and_nowhere_else(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    await story.log.flush()
    judgements = story.judgements()
    kept = await judgements.take(judged(one.event.answer_id, 0, SECRET))
    assert isinstance(kept, Feedback)
    assert await judgements.take(judged(one.event.answer_id, 0, SECRET)) == kept, "said again"
    with pytest.raises(Conflict):
        await judgements.take(judged(one.event.answer_id, 0, "something else"))
    (event,) = await sent(db, FeedbackRecorded)
    assert event.corrected is None
    assert event.correction.bucket == CORRECTIONS
    assert event.correction.bytes == len(await objects.get(CORRECTIONS, event.correction.key))
    assert await read(objects, [event.correction]) == {event.correction.sha256: SECRET}
    assert SECRET not in await everything_kept(db)


async def test_while_the_store_is_away_a_correction_waits_on_disk_and_no_event_is_ahead_of_it(
    db: Database, s3: Any
) -> None:
    objects = Away(s3.endpoint, *s3.key("serving"))
    story = Story.begin(db, objects)
    async with db.unit_of_work() as work:
        one = served()
        await store.add_predictions(work, [_row(one.event.model_copy(update={"answer_id": "a-1"}), one)])
    judgements = story.judgements()
    assert isinstance(await judgements.take(judged("a-1", 0, SECRET)), Accepted)
    assert isinstance(await judgements.take(judged("a-1", 1, None, "bob")), Feedback), (
        "only words need the store"
    )
    with pytest.raises(Unavailable):
        await judgements.settle()
    assert [event.actor for event in await sent(db, FeedbackRecorded)] == ["bob"]
    objects.away = False
    await judgements.settle()
    _, event = await sent(db, FeedbackRecorded)
    assert await read(objects, [event.correction]) == {event.correction.sha256: SECRET}


async def test_what_a_foreign_producer_wrote_into_its_event_is_not_kept_here(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    said = FeedbackRecorded(
        feedback_id="f-1", answer_id="a-1", model="support", score=0, corrected=SECRET, actor="crm"
    )
    async with db.unit_of_work() as work:
        await story.service.hear(work, said)
    assert SECRET not in await everything_kept(db)


async def test_a_judgement_that_waits_reaches_no_model_that_its_token_did_not(
    db: Database, objects: S3Objects
) -> None:
    """Whether it waits on disk for the database, or in the database for its answer."""
    story, before = Story.begin(db, objects), count("forbidden")
    other = Story.begin(db, objects)
    story.log.add(one := served())
    mine = replace(judged(one.event.answer_id, 0), models=("other",))
    theirs = replace(judged(one.event.answer_id, 1, None, "bob"), models=("support",))
    assert isinstance(await other.judgements().take(mine), PendingFeedback)
    away = Judgements(other.service, nowhere(), objects, waiting := spool(), 2, 3_600)
    for one_of_both in (replace(mine, actor="carl"), theirs):
        assert isinstance(await away.take(one_of_both), Accepted)
    await story.log.flush()
    back = Judgements(story.service, db, objects, waiting, 30, 3_600)
    for _ in range(2):
        await back.settle()
    assert [event.actor for event in await sent(db, FeedbackRecorded)] == ["bob"]
    assert count("forbidden") == before + 2


def test_now_is_when_ids_are_made() -> None:
    made = made_at(new_id())
    assert made is not None
    assert abs(datetime.now(UTC) - made) < timedelta(seconds=5)
    assert made_at("00000000-0000-4000-8000-000000000000") is None
    assert made_at("chatcmpl-1") is None
