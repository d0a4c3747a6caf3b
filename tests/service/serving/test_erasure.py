"""What a subject said is taken back: from the store, and from every row; again changes nothing, and others lose nothing."""

import json
from datetime import timedelta
from typing import Any

import pytest

from services.serving.domain import Feedback
from services.serving.erasure import Eraser, digest_of
from services.serving.predictions import BUCKET, Served, text_line
from shared.artifacts.corrections import CORRECTIONS, read
from shared.artifacts.objects import S3Objects
from shared.contracts.errors import Unavailable
from shared.contracts.events import FeedbackRecorded, PredictionServed
from shared.delivery.unit_of_work import Database
from tests.service.serving.conftest import sent
from tests.service.serving.story import Story
from tests.service.serving.test_predictions import judged, served


def asked_by(subject: str, user: str | None = None, model: str = "support") -> Served:
    one = served()
    event = one.event.model_copy(update={"model": model})
    messages = [{"role": "user", "content": f"I am {subject} {user or ''}"}]
    line = text_line(event.answer_id, model, messages, f"hello {subject}")
    return Served(event, one.cause, line, digest_of(subject), digest_of(user) if user else None)


async def texts(db: Database, objects: S3Objects) -> list[str | None]:
    """The question behind each announced answer, in their order, as data and monitor read it: by reference."""
    found: list[str | None] = []
    for event in await sent(db, PredictionServed):
        lines = (await objects.get(BUCKET, event.text.key)).split(b"\n")
        record = json.loads(lines[event.text.line])
        known = record.get("answer_id") == event.answer_id
        found.append(record["messages"][0]["content"].strip() if known else None)
    return found


async def audit(db: Database) -> list[tuple[Any, ...]]:
    async with db.unit_of_work() as work:
        rows = await work.execute(
            "SELECT model, asked_by, predictions, corrections FROM erasure ORDER BY at, id"
        )
        return [tuple(row) for row in rows]


async def test_a_subject_is_erased_everywhere_and_nobody_else_is(db: Database, objects: S3Objects) -> None:
    story = Story.begin(db, objects)
    eraser = Eraser(db, objects, story.clock)
    asked = [asked_by("ann"), asked_by("bob"), asked_by("crm", "ann"), asked_by("ann", model="billing")]
    for one in asked:
        story.log.add(one)
    await story.log.flush()
    judgements = story.judgements()
    mine = await judgements.take(judged(asked[1].event.answer_id, 0, "words of ann", "ann"))
    of_mine = await judgements.take(judged(asked[0].event.answer_id, 0, "about ann", "bob"))
    other = await judgements.take(judged(asked[1].event.answer_id, 0, "words of bob", "bob"))
    assert all(isinstance(one, Feedback) for one in (mine, of_mine, other))
    refs = [event.correction for event in await sent(db, FeedbackRecorded)]
    story.clock.advance(timedelta(days=400))  # the clock of the test begins before that of the ids

    before = await texts(db, objects)
    dry = await eraser.would_erase("support", "ann")
    assert (set(dry.answers), dry.corrections) == ({asked[0].event.answer_id, asked[2].event.answer_id}, 2)
    assert await texts(db, objects) == before, "a dry run changes nothing"
    done = await eraser.erase("support", "ann", "officer")
    assert (sorted(done.answers), done.corrections) == (sorted(dry.answers), 2)

    assert await texts(db, objects) == [None, "I am bob", None, "I am ann"]
    assert list((await read(objects, refs)).values()) == ["words of bob"]
    assert len(await objects.keys(CORRECTIONS, refs[0].key)) == 0
    async with db.unit_of_work() as work:
        rows = await work.execute("SELECT actor, correction IS NULL FROM feedback ORDER BY actor, 2")
        assert [tuple(row) for row in rows] == [("bob", False), ("bob", True), ("erased", True)]
    again = await eraser.erase("support", "ann", "officer")
    assert (again.answers, again.corrections) == ((), 0)
    assert await audit(db) == [("support", "officer", 2, 2), ("support", "officer", 0, 0)]
    assert "ann" not in str(await audit(db))


async def test_what_was_on_a_disk_when_the_order_came_is_erased_when_it_is_written(
    db: Database, objects: S3Objects
) -> None:
    story = Story.begin(db, objects)
    eraser = Eraser(db, objects, story.clock)
    one = asked_by("ann")
    story.clock.advance(one.event.served_at - story.clock.now() + timedelta(minutes=1))
    story.log.add(one)
    assert (await eraser.erase("support", "ann", "officer")).answers == ()
    await story.log.flush()
    assert await texts(db, objects) == ["I am ann"]
    await eraser.sweep()
    assert await texts(db, objects) == [None]
    assert await audit(db) == [("support", "officer", 1, 0)]


class Away(S3Objects):
    """A real store that stops taking objects."""

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        raise Unavailable("The object store does not answer.")


async def test_an_erasure_that_was_cut_off_goes_on(db: Database, objects: S3Objects, s3: Any) -> None:
    story = Story.begin(db, objects)
    story.log.add(asked_by("ann"))
    await story.log.flush()
    story.clock.advance(timedelta(days=400))
    away = Away(s3.endpoint, *s3.key("serving"))
    with pytest.raises(Unavailable):
        await Eraser(db, away, story.clock).erase("support", "ann", "officer")
    assert await texts(db, objects) == ["I am ann"]
    done = await Eraser(db, objects, story.clock).erase("support", "ann", "officer")
    assert len(done.answers) == 1
    assert await texts(db, objects) == [None]
