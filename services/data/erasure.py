"""Forgetting what a subject said: no dataset made from now on has it, also not by way of the dataset it builds on.

Datasets that were published stay as they are, since their digests name them: they are reported, to be deleted once the next
version serves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from services.data import sources
from services.data.domain import Erasure
from services.data.formats import messages
from services.data.rows import Record, Turn, Unfit, marks
from services.data.store import Store
from shared.artifacts.corrections import FOREIGN_CORRECTIONS
from shared.artifacts.objects import ObjectStore
from shared.contracts.envelope import new_id
from shared.contracts.text import Json
from shared.delivery.unit_of_work import Database
from shared.service.clock import Clock

log = structlog.get_logger()
_PLACE = "answer "


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows were marked, and which datasets have taken some of them in."""

    rows: int
    datasets: Sequence[str]


class Forgetting:
    def __init__(self, db: Database, objects: ObjectStore, clock: Clock) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock

    async def forget(self, model: str, subject: str, answers: Sequence[str], asked_by: str) -> Forgotten:
        """Forget these answers of a subject, and its judgements. To be called while their texts are still in the store:
        prompts are kept out of later datasets by a hash of their words. Again changes nothing.

        Raises:
            Unavailable: the store is away; the same call goes on.
        """
        async with self._db.unit_of_work() as work:
            places = await Store(work.session).places(model, answers)
        texts = await sources.texts(self._objects, places)
        prompts = {mark for record in texts.values() if (mark := prompt_mark(record))}
        async with self._db.unit_of_work() as work:
            store = Store(work.session)
            await store.lock_model(model, shared=False)  # no build counts labels meanwhile
            judgements = await store.judgements_of(model, subject, answers)
            for one in judgements:
                if one.correction and one.correction["bucket"] == FOREIGN_CORRECTIONS:
                    await self._objects.delete(FOREIGN_CORRECTIONS, one.correction["key"])
            datasets = await store.taken_in_by([one.feedback_id for one in judgements])
            rows = await store.forget(model, subject, answers, prompts)
            for build in await store.with_rejects(model):
                build.rejects = [
                    reject
                    for reject in build.rejects
                    if reject["place"].removeprefix(_PLACE) not in set(answers)
                ]
            digest = hashlib.sha256(subject.encode()).hexdigest()
            work.session.add(
                Erasure(
                    id=new_id(),
                    model=model,
                    subject_sha256=digest,
                    asked_by=asked_by,
                    at=self._clock.now(),
                    rows=rows,
                )
            )
        log.info("subject.forgotten", model=model, rows=rows, prompts=len(prompts), datasets=len(datasets))
        return Forgotten(rows, datasets)


def prompt_mark(record: Record) -> bytes | None:
    """What the pipeline knows the prompt of a served answer by; None if it never becomes a row."""
    asked: Json = (
        {"messages": [*record["messages"], {"role": "assistant", "content": "x"}]}
        if isinstance(record.get("messages"), list)
        else {}
    )
    try:
        turns = [Turn(turn.role, turn.content.strip()) for turn in messages.to_messages(asked)]
    except Unfit:
        return None
    return marks(turns).prompt if turns else None
