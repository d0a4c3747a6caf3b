"""What is true, said again: for services whose database is new, however old the news is.

A restatement is a new event with the revision or sequence of the first one. Whoever knows that already takes no notice.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from services.registry import announcements
from services.registry.store import Store
from shared.contracts.envelope import request_envelope
from shared.contracts.events import ModelDeclared
from shared.contracts.policy import Policy
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.service.clock import Clock

log = structlog.get_logger()


class Restating:
    """At the start of the process, then from time to time, and whenever somebody asks."""

    def __init__(self, db: Database, clock: Clock, every_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._every = timedelta(seconds=every_seconds)

    async def run(self) -> None:
        """What is younger than one round is left out later on: its first announcement is on its way."""
        await self.restate()
        while True:
            await asyncio.sleep(self._every.total_seconds())
            await self.restate(before=self._clock.now() - self._every)

    async def restate(self, before: datetime | None = None) -> int:
        """Announce the policy and the champion of each model again, as far as they are older than `before`.

        Returns the number of events. One transaction for each model.
        """
        async with self._db.unit_of_work() as work:
            names = await Store(work.session).names()
        said = 0
        for name in names:
            async with self._db.unit_of_work(request_envelope("registry")) as work:
                said += await self._model(work, name, before)
        log.info("state.restated", models=len(names), events=said)
        return said

    async def _model(self, work: UnitOfWork, name: str, before: datetime | None) -> int:
        store = Store(work.session)
        model = await store.lock_model(
            name
        )  # else a promotion could overtake, and the older word be the last one
        if model is None:
            return 0
        said = 0
        policy = await store.policy(name, model.revision)
        if policy is not None and (before is None or policy.declared_at < before):
            work.emit(
                ModelDeclared(
                    model=name,
                    revision=policy.revision,
                    policy=Policy.model_validate(policy.policy),
                    actor=policy.actor,
                    restated=True,
                )
            )
            said += 1
        newest = await store.promotions(name, 2)
        if newest and newest[0].version is not None and (before is None or newest[0].at < before):
            version = await store.version(name, newest[0].version)
            if version is not None:
                previous = newest[1].version if len(newest) > 1 else None
                work.emit(announcements.restated(version, previous, newest[0]))
                said += 1
        return said
