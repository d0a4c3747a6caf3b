"""Read-only SQL for catalogues: pages by key, aliases without their whole history, versions without their documents."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text, tuple_
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.registry.domain import AliasEvent, ModelVersion, PolicyRevision, Rollout
from services.registry.rules import Aliases

_HOLDER = """(SELECT e.version FROM alias_event e WHERE e.model = {model} AND e.alias = '{alias}' {more}
              ORDER BY e.sequence DESC LIMIT 1) AS {alias}"""
_MODELS = """
SELECT m.name, m.revision, m.versions, m.sequence, {champion}, {challenger}, GREATEST(
    (SELECT p.declared_at FROM policy_revision p WHERE p.model = m.name AND p.revision = m.revision),
    (SELECT e.at FROM alias_event e WHERE e.model = m.name AND e.sequence = m.sequence),
    (SELECT v.decided_at FROM model_version v WHERE v.model = m.name AND v.number = m.versions),
    (SELECT max(v.trained_at) FROM model_version v WHERE v.model = m.name)) AS changed_at
FROM logical_model m WHERE {where} ORDER BY m.name LIMIT :limit
"""
_VERSIONS = """
SELECT model, number, state, run_id, adapter_digest, dataset_digest, engine_name, evaluation_id, compared_with, drift_id,
       left(reasons->>0, 400) AS reason, cost, trained_at, decided_at,
       jsonb_path_query_first(scores, '$[*] ? (@.subject == "candidate" && @.split == "test"
                                               && @.metric == "exact_match")') AS quality
FROM model_version WHERE {where}
ORDER BY number DESC NULLS FIRST, trained_at DESC, adapter_digest DESC LIMIT :limit
"""
_PERIODS = """
SELECT e.sequence, e.alias, e.at AS since, e.actor, e.reason, e.rollback,
       (SELECT n.at FROM alias_event n WHERE n.model = e.model AND n.alias = e.alias AND n.sequence > e.sequence
        ORDER BY n.sequence LIMIT 1) AS until
FROM alias_event e WHERE e.model = :model AND e.version = :version ORDER BY e.sequence DESC LIMIT :limit
"""
_MOVES = "SELECT sequence, alias, version, at FROM alias_event WHERE model = :model AND alias = 'champion'"


@dataclass(slots=True)
class ChampionMove:
    """An alias event without its evidence."""

    sequence: int
    alias: str
    version: int | None
    at: datetime


class Lists:
    """Reads in the session of one unit of work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def _rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in (await self._session.execute(text(query), values)).mappings()]

    async def models(
        self, after: str, limit: int, names: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        """Models by name, from behind `after` on, with their aliases and when anything of them changed last."""
        if names is None:
            return await self._rows(_models("m.name > :after"), after=after, limit=limit)
        of_these = _models("m.name > :after AND m.name = ANY(:names)")
        return await self._rows(of_these, after=after, limit=limit, names=list(names))

    async def model(self, name: str) -> dict[str, Any] | None:
        found = await self._rows(_models("m.name = :name"), name=name, limit=1)
        return found[0] if found else None

    async def aliases(self, model: str, at: datetime | None = None) -> Aliases:
        """Who holds the aliases now, or held them at a time."""
        more = "AND e.at <= :at" if at else ""
        holders = (_HOLDER.format(model=":model", alias=alias, more=more) for alias in Aliases._fields)
        values = {"at": at} if at else {}
        (row,) = await self._rows(f"SELECT {', '.join(holders)}", model=model, **values)
        return Aliases(**row)

    async def events(
        self, model: str, at: datetime | None, before: int | None, limit: int
    ) -> Sequence[AliasEvent]:
        """The newest `limit` alias events up to a time and before a sequence, in order."""
        query = select(AliasEvent).where(AliasEvent.model == model)
        if at is not None:
            query = query.where(AliasEvent.at <= at)
        if before is not None:
            query = query.where(AliasEvent.sequence < before)
        newest = query.order_by(col(AliasEvent.sequence).desc()).limit(limit)
        return list(reversed((await self._session.exec(newest)).all()))

    async def versions(
        self, model: str, state: str | None, after: ModelVersion | None, limit: int
    ) -> Sequence[ModelVersion]:
        """Newest first; candidates, which have no number yet, before all others."""
        number, trained, digest = (
            col(ModelVersion.number),
            col(ModelVersion.trained_at),
            col(ModelVersion.adapter_digest),
        )
        query = select(ModelVersion).where(ModelVersion.model == model)
        if state is not None:
            query = query.where(ModelVersion.state == state)
        if after is not None and after.number is not None:
            query = query.where(number < after.number)
        elif after is not None:
            older = tuple_(trained, digest) < (after.trained_at, after.adapter_digest)
            query = query.where(number.is_not(None) | older)
        order = (number.desc().nulls_first(), trained.desc(), digest.desc())
        return (await self._session.exec(query.order_by(*order).limit(limit))).all()

    async def summaries(
        self, model: str, state: str | None, after: ModelVersion | None, limit: int
    ) -> list[dict[str, Any]]:
        """As `versions`, with exact match and the first reason only."""
        where, values = ["model = :model"], {"model": model, "limit": limit}
        if state is not None:
            where, values = [*where, "state = :state"], {**values, "state": state}
        if after is not None and after.number is not None:
            where, values = [*where, "number < :number"], {**values, "number": after.number}
        elif after is not None:
            older = "(number IS NOT NULL OR (trained_at, adapter_digest) < (:trained_at, :digest))"
            where = [*where, older]
            values |= {"trained_at": after.trained_at, "digest": after.adapter_digest}
        return await self._rows(_VERSIONS.format(where=" AND ".join(where)), **values)

    async def periods(self, model: str, version: int, limit: int) -> list[dict[str, Any]]:
        """When a version took an alias, and when the next move of that alias ended it; newest first."""
        return await self._rows(_PERIODS, model=model, version=version, limit=limit)

    async def rollouts(self, model: str, version: int, limit: int) -> Sequence[Rollout]:
        """Of one version, newest news first."""
        query = select(Rollout).where(Rollout.model == model, Rollout.version == version)
        return (await self._session.exec(query.order_by(col(Rollout.changed_at).desc()).limit(limit))).all()

    async def champion_moves(self, model: str) -> list[ChampionMove]:
        return [ChampionMove(**row) for row in await self._rows(_MOVES, model=model)]

    async def revisions(self, model: str, before: int | None, limit: int) -> list[dict[str, Any]]:
        """Revisions of a policy without the documents, newest first."""
        query = select(PolicyRevision.revision, PolicyRevision.actor, PolicyRevision.declared_at)
        query = query.where(PolicyRevision.model == model)
        if before is not None:
            query = query.where(PolicyRevision.revision < before)
        found = await self._session.exec(query.order_by(col(PolicyRevision.revision).desc()).limit(limit))
        return [
            {"revision": revision, "actor": actor, "declared_at": at} for revision, actor, at in found.all()
        ]


def _models(where: str) -> str:
    holders = {alias: _HOLDER.format(model="m.name", alias=alias, more="") for alias in Aliases._fields}
    return _MODELS.format(where=where, **holders)
