"""What people and machines may ask: models, versions, and who was champion when."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from services.registry import rules
from services.registry.card import model_card
from services.registry.domain import AliasEvent, ModelVersion, PolicyRevision, Rollout
from services.registry.lists import Lists
from services.registry.rules import Aliases
from services.registry.store import Store
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import NotFound
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork

_MOST = 50


class History(NamedTuple):
    """Who is what after `events`, or was at the time asked for."""

    aliases: Aliases
    events: Sequence[AliasEvent]


class Traffic(NamedTuple):
    """When a version held an alias, and how it was rolled out; newest first."""

    periods: list[Json]
    rollouts: Sequence[Rollout]


class Preview(NamedTuple):
    """What a rollback would do now."""

    champion: int | None
    target: int


class Catalogue:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def models(
        self, work: UnitOfWork, after: str, limit: int, names: Collection[str] | None = None
    ) -> list[Json]:
        """By name, from behind `after` on; of these names only, if any are given."""
        return await Lists(work.session).models(after, limit, names)

    async def model(self, work: UnitOfWork, name: str) -> Json:
        found = await Lists(work.session).model(name)
        if found is None:
            raise NotFound("There is no such model.", "List them: driftwheel models list.")
        return found

    async def policy(self, work: UnitOfWork, name: str, revision: int | None) -> PolicyRevision:
        model = await self.model(work, name)
        row = await Store(work.session).policy(name, model["revision"] if revision is None else revision)
        if row is None:
            raise NotFound("The policy has no such revision.", f"The current one is {model['revision']}.")
        return row

    async def policies(
        self, work: UnitOfWork, limit: int, names: Collection[str] | None = None
    ) -> Sequence[PolicyRevision]:
        """The current ones by name; of these models only, if any are given."""
        return await Store(work.session).policies(limit, names)

    async def revisions(self, work: UnitOfWork, name: str, after: int | None, limit: int) -> list[Json]:
        """Who declared what when, newest first, from behind revision `after` on."""
        await self.model(work, name)
        return await Lists(work.session).revisions(name, after, limit)

    async def versions(
        self, work: UnitOfWork, name: str, state: str | None, after: str | None, limit: int
    ) -> tuple[Aliases, Sequence[ModelVersion]]:
        """Newest first, from behind the version with the adapter `after` on. Raises NotFound if there is none."""
        aliases, last = await self._from(work, name, after)
        return aliases, await Lists(work.session).versions(name, state, last, limit)

    async def summaries(
        self, work: UnitOfWork, name: str, state: str | None, after: str | None, limit: int
    ) -> tuple[Aliases, list[Json]]:
        """As `versions`, for lists."""
        aliases, last = await self._from(work, name, after)
        return aliases, await Lists(work.session).summaries(name, state, last, limit)

    async def _from(
        self, work: UnitOfWork, name: str, after: str | None
    ) -> tuple[Aliases, ModelVersion | None]:
        aliases = _aliases(await self.model(work, name))
        last = await Store(work.session).version_of(name, after) if after else None
        if after and last is None:
            raise NotFound("The model has no version of this adapter.", "Start without `after`.")
        return aliases, last

    async def version(self, work: UnitOfWork, name: str, number: int) -> tuple[Aliases, ModelVersion]:
        found = await self.model(work, name)
        version = await Store(work.session).version(name, number)
        if version is None:
            raise NotFound("The model has no such version.", "List them: GET /models/{model}/versions.")
        return _aliases(found), version

    async def card(self, work: UnitOfWork, name: str, number: int) -> tuple[str, str]:
        """An adapter's digest, and the model card that was published with it. Raises NotFound if there is none."""
        _, version = await self.version(work, name, number)
        return version.adapter_digest, await model_card(self._objects, version.adapter_digest)

    async def traffic(self, work: UnitOfWork, name: str, number: int) -> Traffic:
        await self.version(work, name, number)
        lists = Lists(work.session)
        return Traffic(await lists.periods(name, number, _MOST), await lists.rollouts(name, number, _MOST))

    async def history(
        self, work: UnitOfWork, name: str, at: datetime | None, before: int | None, limit: int
    ) -> History:
        """Who is what, or was at the time `at`, and the newest alias events until then (and before one of them)."""
        await self.model(work, name)
        lists = Lists(work.session)
        return History(await lists.aliases(name, at), await lists.events(name, at, before, limit))

    async def preview(self, work: UnitOfWork, name: str, to: int | None) -> Preview:
        """Raises Conflict as the rollback itself would."""
        champion = _aliases(await self.model(work, name)).champion
        moves = await Lists(work.session).champion_moves(name)
        return Preview(champion, rules.rollback_target(moves, await Store(work.session).states(name), to))


def _aliases(model: dict[str, Any]) -> Aliases:
    return Aliases(model["champion"], model["challenger"])
