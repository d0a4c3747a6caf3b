"""What people and machines may ask: models, versions, and who was champion when."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from services.registry import rules
from services.registry.domain import AliasEvent, LogicalModel, ModelVersion, PolicyRevision
from services.registry.rules import Aliases
from services.registry.store import Store
from shared.db import UnitOfWork
from shared.errors import NotFound


class History(NamedTuple):
    """Who is what after `events`."""

    aliases: Aliases
    events: Sequence[AliasEvent]


class Overview(NamedTuple):
    model: LogicalModel
    aliases: Aliases


class Catalogue:
    async def models(self, work: UnitOfWork, limit: int) -> list[Overview]:
        store = Store(work.session)
        return [
            Overview(model, rules.fold(await store.alias_events(model.name)))
            for model in await store.models(limit)
        ]

    async def model(self, work: UnitOfWork, name: str) -> Overview:
        model = await Store(work.session).model(name)
        if model is None:
            raise NotFound("There is no such model.", "List them: driftwheel models list.")
        return Overview(model, rules.fold(await Store(work.session).alias_events(name)))

    async def policy(self, work: UnitOfWork, name: str, revision: int | None) -> PolicyRevision:
        model = (await self.model(work, name)).model
        row = await Store(work.session).policy(name, model.revision if revision is None else revision)
        if row is None:
            raise NotFound("The policy has no such revision.", f"The current one is {model.revision}.")
        return row

    async def policies(self, work: UnitOfWork, limit: int) -> Sequence[PolicyRevision]:
        return await Store(work.session).policies(limit)

    async def versions(
        self, work: UnitOfWork, name: str, state: str | None, limit: int
    ) -> tuple[Aliases, Sequence[ModelVersion]]:
        found = await self.model(work, name)
        return found.aliases, await Store(work.session).versions(name, state, limit)

    async def version(self, work: UnitOfWork, name: str, number: int) -> tuple[Aliases, ModelVersion]:
        found = await self.model(work, name)
        version = await Store(work.session).version(name, number)
        if version is None:
            raise NotFound("The model has no such version.", "List them: GET /models/{model}/versions.")
        return found.aliases, version

    async def history(self, work: UnitOfWork, name: str, at: datetime | None) -> History:
        """Alias events up to `at`, or all of them."""
        await self.model(work, name)
        events = await Store(work.session).alias_events(name)
        return History(rules.fold(events, at), [one for one in events if at is None or one.at <= at])
