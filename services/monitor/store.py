"""The only SQL of this service, but for what becomes of retrainings: see flights.py."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from services.monitor.domain import Drift, Feedback, Prediction, Promotion, Rollout, Watched, Window
from services.monitor.evidence import Traffic
from services.monitor.texts import Place
from shared.contracts.counters import is_newer
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork

_ENDED = ("completed", "rolled_back")
_CHAMPIONS = "FROM prediction WHERE model = :model AND model_version = :version AND arm = 'champion'"
_COMPLETE = f"SELECT 1 {_CHAMPIONS} AND id > :after ORDER BY id OFFSET :skip LIMIT 1"
_CUT = f"""
SELECT min(id) AS first_id, percentile_disc(0.5) WITHIN GROUP (ORDER BY id) AS middle_id, max(id) AS last_id,
    count(*) AS predictions, min(served_at) AS started_at, max(served_at) AS ended_at
FROM (SELECT id, served_at {_CHAMPIONS} AND id > :after ORDER BY id DESC LIMIT :size) AS newest
"""
_PLACES = f"""
SELECT answer_id, text_key, text_line {_CHAMPIONS} AND id BETWEEN :first AND :last AND text_key IS NOT NULL ORDER BY id
"""
# An answer counts once, however often it was judged: a flood of feedback on one answer is one vote.
_ANSWERS = """
SELECT count(*) AS answers, count(*) FILTER (WHERE outcome = 'error') AS errors,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE outcome = 'ok') AS latency_p99_ms,
    count(score) AS scored, avg(score) AS mean_score, count(*) FILTER (WHERE corrected) AS corrected
"""
_JUDGED = """
LEFT JOIN LATERAL (
    SELECT avg(f.score) AS score, bool_or(f.corrected) AS corrected
    FROM feedback f WHERE f.answer_id = p.answer_id AND f.model = p.model
) AS judged ON true
"""
_TRAFFIC = f"""
{_ANSWERS} FROM prediction p {_JUDGED}
WHERE p.model = :model AND p.model_version = :version AND p.arm = 'champion' AND p.id BETWEEN :first AND :last
"""
_VERSIONS = f"""
SELECT model_version, answers, errors, latency_p50_ms, latency_p99_ms, first_token_p50_ms, scored, mean_score, corrected
FROM (
    {_ANSWERS}, p.model_version,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE outcome = 'ok') AS latency_p50_ms,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY first_token_ms) AS first_token_p50_ms
    FROM prediction p {_JUDGED} WHERE p.model = :model AND p.seen_at >= :since GROUP BY p.model_version
) AS version ORDER BY model_version
"""


class Cut(NamedTuple):
    first_id: int
    middle_id: int
    last_id: int
    predictions: int
    started_at: datetime
    ended_at: datetime


class Store:
    """Reads and writes in one unit of work."""

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work
        self._session = work.session

    def add(self, row: Window | Drift) -> None:
        self._session.add(row)

    async def add_new(self, rows: Sequence[Prediction | Feedback]) -> None:
        """Insert rows of one kind in one statement, but for keys that exist."""
        if rows:
            statement = insert(type(rows[0])).on_conflict_do_nothing()
            await self._session.execute(statement, [row.model_dump(exclude={"id"}) for row in rows])

    async def add_once(self, row: Promotion) -> bool:
        """False, and nothing happens, if a row with this key exists."""
        values = row.model_dump(exclude={"id"})
        statement = insert(type(row)).values(**values).on_conflict_do_nothing().returning(text("1"))
        return (await self._session.execute(statement)).first() is not None

    async def put_watched(self, row: Watched) -> None:
        """An older revision changes nothing."""
        revision = select(Watched.revision).where(Watched.model == row.model)
        if not is_newer((await self._session.exec(revision)).one_or_none() or 0, row.revision, "revision"):
            return
        statement = insert(Watched).values(**row.model_dump())
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["model"],
                set_={name: statement.excluded[name] for name in ("revision", "drift", "retrain")},
                where=col(Watched.revision) < statement.excluded.revision,
            )
        )

    async def put_rollout(self, row: Rollout) -> None:
        """An older step changes nothing, and nothing follows an end."""
        statement = insert(Rollout).values(**row.model_dump())
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["rollout_id"],
                set_={
                    name: statement.excluded[name]
                    for name in ("state", "step", "weight", "reason", "seen_at")
                },
                where=(col(Rollout.step) <= statement.excluded.step) & col(Rollout.state).not_in(_ENDED),
            )
        )

    async def models(self) -> list[str]:
        """Models that are declared and have a champion."""
        statement = select(Watched.model).where(col(Watched.model).in_(select(Promotion.model)))
        return list((await self._session.exec(statement.order_by(Watched.model))).all())

    async def all_watched(self, model: str | None) -> list[tuple[Watched, Promotion | None]]:
        """Declared models by name, each with the promotion that serves."""
        newest = (
            select(Promotion)
            .distinct(col(Promotion.model))
            .order_by(col(Promotion.model), col(Promotion.sequence).desc())
        )
        serves = {row.model: row for row in (await self._session.exec(newest)).all()}
        statement = select(Watched).order_by(Watched.model)
        if model is not None:
            statement = statement.where(Watched.model == model)
        return [(row, serves.get(row.model)) for row in (await self._session.exec(statement)).all()]

    async def watched(self, model: str) -> Watched | None:
        return await self._session.get(Watched, model)

    async def champion(self, model: str, *, lock: bool = False) -> Promotion | None:
        """The promotion that serves. Locking it makes everything decided about the model serial."""
        newest = (
            select(Promotion)
            .where(Promotion.model == model)
            .order_by(col(Promotion.sequence).desc())
            .limit(1)
        )
        return (await self._session.exec(newest.with_for_update() if lock else newest)).first()

    async def promotions(self, model: str) -> list[Promotion]:
        statement = select(Promotion).where(Promotion.model == model).order_by(col(Promotion.sequence))
        return list((await self._session.exec(statement)).all())

    async def rollouts(self, model: str) -> list[Rollout]:
        statement = select(Rollout).where(Rollout.model == model).order_by(col(Rollout.seen_at).desc())
        return list((await self._session.exec(statement.limit(20))).all())

    async def last_window(self, model: str, version: int) -> Window | None:
        statement = select(Window).where(Window.model == model, Window.model_version == version)
        return (await self._session.exec(statement.order_by(col(Window.last_id).desc()).limit(1))).first()

    async def open_window(self, model: str) -> Window | None:
        statement = select(Window).where(Window.model == model, Window.state == "measuring")
        return (await self._session.exec(statement)).first()

    async def window(self, window_id: str, *, lock: bool = False) -> Window | None:
        return await self._session.get(Window, window_id, with_for_update=lock)

    async def measured(self, champion: Promotion, number: int) -> list[Window]:
        """The newest measured windows since a promotion, oldest first."""
        statement = select(Window).where(
            Window.model == champion.model, Window.sequence == champion.sequence, Window.state == "measured"
        )
        rows = await self._session.exec(statement.order_by(col(Window.last_id).desc()).limit(number))
        return list(rows.all())[::-1]

    async def windows(self, model: str | None, limit: int, after: Window | None = None) -> list[Window]:
        """The newest first; those older than `after`, if given."""
        statement = select(Window).order_by(col(Window.opened_at).desc(), col(Window.id).desc()).limit(limit)
        if model is not None:
            statement = statement.where(Window.model == model)
        if after is not None:
            place = tuple_(col(Window.opened_at), col(Window.id))
            statement = statement.where(place < tuple_(after.opened_at, after.id))
        return list((await self._session.exec(statement)).all())

    async def cut(self, champion: Promotion, after: int, size: int) -> Cut | None:
        """The newest `size` answers of the champion behind `after`, or None if there are not that many."""
        which = {"model": champion.model, "version": champion.model_version, "after": after}
        if (await self._work.execute(_COMPLETE, {**which, "skip": size - 1})).scalar() is None:
            return None
        return Cut(**(await self._work.execute(_CUT, {**which, "size": size})).mappings().one())

    async def places(self, window: Window) -> list[Place]:
        return [Place(*row) for row in await self._work.execute(_PLACES, _range(window))]

    async def traffic(self, window: Window) -> Traffic:
        return Traffic(**(await self._work.execute(_TRAFFIC, _range(window))).mappings().one())

    async def newest_feedback(self, model: str) -> int:
        newest = await self._work.execute(
            "SELECT max(id) FROM feedback WHERE model = :model", {"model": model}
        )
        return newest.scalar() or 0

    async def versions(self, model: str, since: datetime) -> list[Json]:
        rows = await self._work.execute(_VERSIONS, {"model": model, "since": since})
        return [dict(row) for row in rows.mappings()]

    async def drifts(
        self,
        model: str | None,
        limit: int,
        after: Drift | None = None,
        windows: Sequence[str] | None = None,
    ) -> list[Drift]:
        """The newest first; those older than `after`, and those of some windows only, if given."""
        statement = select(Drift).order_by(col(Drift.announced_at).desc(), col(Drift.id).desc()).limit(limit)
        if model is not None:
            statement = statement.where(Drift.model == model)
        if windows is not None:
            statement = statement.where(col(Drift.window_id).in_(windows))
        if after is not None:
            place = tuple_(col(Drift.announced_at), col(Drift.id))
            statement = statement.where(place < tuple_(after.announced_at, after.id))
        return list((await self._session.exec(statement)).all())

    async def drift(self, drift_id: str) -> Drift | None:
        return await self._session.get(Drift, drift_id)

    async def prune(self, before: datetime) -> None:
        for table in (Prediction, Feedback):
            await self._session.execute(
                text(f"DELETE FROM {table.__tablename__} WHERE seen_at < :before"), {"before": before}
            )


def _range(window: Window) -> dict[str, Any]:
    return {
        "model": window.model,
        "version": window.model_version,
        "first": window.first_id,
        "last": window.last_id,
    }
