"""The prediction log over a real store and database: nothing lost while they are away, nothing twice, bounded."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.serving.metrics import SHED
from services.serving.predictions import BUCKET, PredictionLog, Served, text_line
from services.serving.service import Judged
from shared.artifacts.objects import S3Objects
from shared.contracts.envelope import new_id, request_envelope
from shared.contracts.errors import Conflict, NotFound, Unavailable
from shared.contracts.events import FeedbackRecorded, PredictionServed
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.story import Story, spool


def served(text: str | None = "yes") -> Served:
    answer_id = new_id()
    event = PredictionServed(
        answer_id=answer_id,
        model="support",
        model_version=1,
        engine_name="support-v1-0",
        arm="champion",
        served_at=datetime.now(UTC),
        latency_ms=12.5,
        outcome="error" if text is None else "ok",
    )
    messages = [{"role": "user", "content": "wo ist mein Päckchen?"}]
    line = None if text is None else text_line(answer_id, "support", messages, text)
    return Served(event, request_envelope("serving", correlationid=f"story-{answer_id}"), line)


class Flaky(S3Objects):
    """A real store that is away for the first calls."""

    def __init__(self, endpoint: str, access: str, secret: str, failures: int) -> None:
        super().__init__(endpoint, access, secret)
        self.failures = failures

    async def create(self, bucket: str, key: str, data: bytes) -> bool:
        if self.failures:
            self.failures -= 1
            raise Unavailable("The object store does not answer.")
        return await super().create(bucket, key, data)


async def test_a_flush_writes_one_object_rows_and_events(db: Database, objects: S3Objects) -> None:
    log = PredictionLog(spool(), db, objects)
    answers = [served("yes"), served(None), served("nein, später\u2028")]
    for one in answers:
        log.add(one)
    await log.flush()
    events = await sent(db, PredictionServed)
    assert [event.answer_id for event in events] == [one.event.answer_id for one in answers]
    assert [event.text.line if event.text else None for event in events] == [0, None, 1]
    content = await objects.get(BUCKET, events[0].text.key)
    lines = [json.loads(line) for line in content.decode().split("\n") if line]
    assert [(line["answer_id"], line["answer"]) for line in lines] == [
        (answers[0].event.answer_id, "yes"),
        (answers[2].event.answer_id, "nein, später\u2028"),
    ]
    assert lines[0]["messages"] == [{"role": "user", "content": "wo ist mein Päckchen?"}]
    async with db.unit_of_work() as work:
        rows = (
            await work.execute("SELECT answer_id, outcome, line FROM prediction ORDER BY answer_id")
        ).all()
        stories = (await work.execute("SELECT correlationid FROM outbox ORDER BY id")).scalars().all()
    assert Counter(row.outcome for row in rows) == {"ok": 2, "error": 1}
    assert stories == [f"story-{one.event.answer_id}" for one in answers], "who asked has named its story"
    await log.flush()
    assert len(await sent(db, PredictionServed)) == 3


async def test_a_batch_written_again_after_an_unknown_commit_says_nothing_twice(
    db: Database, objects: S3Objects
) -> None:
    log = PredictionLog(spool(), db, objects)
    answers = [served(), served()]
    for _ in range(2):
        for one in answers:
            log.add(one)
        await log.flush()
    assert len(await sent(db, PredictionServed)) == 2


async def test_answers_wait_while_the_store_is_away(db: Database, s3: object) -> None:
    store = Flaky(s3.endpoint, *s3.key("serving"), failures=3)
    log = PredictionLog(spool(), db, store, flush_seconds=0.02)
    answers = [served() for _ in range(5)]
    for one in answers:
        log.add(one)
    running = asyncio.create_task(log.run())
    async with asyncio.timeout(30):
        while log.model_of(answers[0].event.answer_id):
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait({running})
    assert store.failures == 0
    assert {event.answer_id for event in await sent(db, PredictionServed)} == {
        one.event.answer_id for one in answers
    }


async def test_a_database_that_is_away_loses_nothing(db: Database, objects: S3Objects) -> None:
    log = PredictionLog(spool(), Database("serving", "postgresql://nobody@127.0.0.1:1/x"), objects)
    log.add(one := served())
    with pytest.raises(Exception, match="connection"):
        await log.flush()
    assert log.model_of(one.event.answer_id) == "support"
    log._db = db
    await log.flush()
    assert [event.answer_id for event in await sent(db, PredictionServed)] == [one.event.answer_id]


async def test_the_end_of_the_process_writes_what_waits(db: Database, objects: S3Objects) -> None:
    log = PredictionLog(spool(), db, objects, flush_seconds=60)
    running = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    log.add(one := served())
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert [event.answer_id for event in await sent(db, PredictionServed)] == [one.event.answer_id]


async def test_beyond_its_limit_the_newest_are_shed_and_the_log_stays_whole(
    db: Database, objects: S3Objects
) -> None:
    log = PredictionLog(spool(limit=1_000_000), db, objects)
    shed = SHED.labels("prediction")._value.get()
    many = [served("x" * 300_000) for _ in range(5)]
    for one in many:
        log.add(one)
    assert [bool(log.model_of(one.event.answer_id)) for one in many] == [True] * 3 + [False] * 2
    assert SHED.labels("prediction")._value.get() == shed + 2
    await log.flush()
    log.add(after := served())
    await log.flush()
    written = {event.answer_id for event in await sent(db, PredictionServed)}
    assert written == {one.event.answer_id for one in (*many[:3], after)}


async def test_a_process_that_was_killed_goes_on_where_it_stopped(
    db: Database, objects: S3Objects, tmp_path: Path
) -> None:
    """Torn in the middle of a record, after the object was written, and after the commit: each answer once."""
    first = PredictionLog(dying := spool(tmp_path), db, objects)
    answers = [served() for _ in range(4)]
    for one in answers:
        first.add(one)
    await dying.sync()
    segment = await dying.oldest()
    batch = [Served.unpack(record) for record in segment.records]
    await first._write(batch)  # written, and not removed: as if killed in between
    first.add(last := served())
    with max(tmp_path.glob("0/*.spool")).open("ab") as file:
        file.write(b"deadbeef {torn")
    dying.close()
    second = PredictionLog(spool(tmp_path), db, objects)
    await second.flush()
    events = await sent(db, PredictionServed)
    assert [event.answer_id for event in events] == [one.event.answer_id for one in (*answers, last)]
    assert len({event.text.key for event in events}) == 2
    assert list(tmp_path.glob("*/*.spool")) == []


async def test_large_batches_are_split(db: Database, objects: S3Objects) -> None:
    log = PredictionLog(spool(records=10), db, objects)
    for _ in range(25):
        log.add(served())
    await log.flush()
    events = await sent(db, PredictionServed)
    assert sorted(Counter(event.text.key for event in events).values()) == [5, 10, 10]


def judged(answer_id: str, score: float, corrected: str | None = None, actor: str = "ann") -> Judged:
    cause = request_envelope("serving", correlationid=f"judged-{answer_id}")
    return Judged(answer_id, score, corrected, actor, cause, datetime.now(UTC))


async def judge(
    story: Story, answer_id: str, score: float, corrected: str | None = None, actor: str = "ann"
) -> str:
    async with story.db.unit_of_work(request_envelope("serving")) as work:
        return (await story.service.judge(work, judged(answer_id, score, corrected, actor))).feedback_id


async def test_feedback_finds_an_answer_before_and_after_it_is_written(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    answer_id = one.event.answer_id
    before = await judge(story, answer_id, 1)
    await story.log.flush()
    assert await judge(story, answer_id, 1) == before
    other = await judge(story, answer_id, 0, "no", "bob")
    assert other != before
    events = await sent(db, FeedbackRecorded)
    assert [(event.feedback_id, event.score, event.is_corrected, event.actor) for event in events] == [
        (before, 1, False, "ann"),
        (other, 0, True, "bob"),
    ]


async def test_a_judgement_stands(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    await judge(story, one.event.answer_id, 1)
    for changed in ({"score": 0}, {"score": 1, "corrected": "other"}):
        with pytest.raises(Conflict):
            await judge(story, one.event.answer_id, **changed)
    with pytest.raises(NotFound):
        await judge(story, "an-id-of-somebody-else", 1)
    with pytest.raises(NotFound):
        await judge(story, f"00000000-0000-7{new_id()[15:]}", 1)  # of 1970: it would be written by now
    assert len(await sent(db, FeedbackRecorded)) == 1


async def test_the_same_judgement_at_once_is_one(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    story.log.add(one := served())
    ids = await asyncio.gather(*(judge(story, one.event.answer_id, 1) for _ in range(8)))
    assert len(set(ids)) == 1
    assert len(await sent(db, FeedbackRecorded)) == 1


async def test_feedback_from_kafka_is_kept_once_even_before_its_answer(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    one = served()
    event = FeedbackRecorded(
        feedback_id="f-1", answer_id=one.event.answer_id, model="support", score=0.5, actor="x"
    )
    for _ in range(2):
        async with db.unit_of_work() as work:
            await story.service.hear(work, event)
    story.log.add(one)
    await story.log.flush()
    async with db.unit_of_work() as work:
        rows = (await work.execute("SELECT score FROM feedback")).scalars().all()
    assert rows == [0.5]
    assert await sent(db, FeedbackRecorded) == []
