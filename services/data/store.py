"""The only SQL of this service."""

from collections.abc import Collection, Sequence

from sqlalchemy import case, func, or_, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import defer
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from services.data.domain import (
    Build,
    Champion,
    Comparison,
    Dataset,
    Declared,
    Drift,
    Erased,
    Feedback,
    Labelled,
    Prediction,
    UploadedFile,
    Used,
    Voices,
)
from shared.contracts.counters import is_newer
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork

_LABELS = """
WITH judged AS (
    SELECT DISTINCT ON (f.answer_id) f.answer_id, f.feedback_id, f.score, f.corrected, f.correction, f.actor,
        f.recorded_at, f.corrected IS NOT NULL OR f.correction IS NOT NULL AS by_a_person, p.key, p.line, p.outcome
    FROM feedback f JOIN prediction p ON p.answer_id = f.answer_id AND p.model = f.model
    WHERE f.model = :model AND NOT EXISTS (
        SELECT FROM used u WHERE u.digest = :digest AND u.feedback_id = f.feedback_id)
    ORDER BY f.answer_id, by_a_person DESC, f.recorded_at DESC, f.feedback_id DESC
), label AS (
    SELECT * FROM judged WHERE by_a_person OR (score >= 1 AND outcome = 'ok')
)
"""
_NEWEST = """
SELECT answer_id, feedback_id, key, line, corrected, actor, correction FROM label
ORDER BY recorded_at DESC, feedback_id DESC
"""
_VOICES = "SELECT count(*), count(*) FILTER (WHERE by_a_person) FROM label GROUP BY actor"
_ENDED = "SELECT why, state, count(*) FROM build WHERE finished_at IS NOT NULL GROUP BY why, state"
_DROPPED = "SELECT key, sum(value::bigint) FROM build, jsonb_each_text(dropped) GROUP BY key"


class Store:
    """Reads and writes in the session of one unit of work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: UploadedFile | Build) -> None:
        self._session.add(row)

    async def add_once(self, row: Drift | Dataset | Comparison) -> bool:
        """False if a row with this key exists; it stays as it is."""
        statement = insert(type(row)).values(**row.model_dump()).on_conflict_do_nothing().returning(text("1"))
        return (await self._session.execute(statement)).scalar() is not None

    async def add_new(self, rows: Sequence[Prediction | Feedback]) -> None:
        """Insert rows of one kind in one statement, but for keys that exist."""
        if rows:
            statement = insert(type(rows[0])).on_conflict_do_nothing()
            await self._session.execute(statement, [row.model_dump() for row in rows])

    async def file(self, file_id: str) -> UploadedFile | None:
        return await self._session.get(UploadedFile, file_id)

    async def files(
        self, purpose: str | None, after: UploadedFile | None, limit: int, newest: bool
    ) -> list[UploadedFile]:
        """A page of files by time of upload, following `after`."""
        place = (col(UploadedFile.created_at), col(UploadedFile.id))
        query = (
            select(UploadedFile)
            .order_by(*(part.desc() if newest else part.asc() for part in place))
            .limit(limit)
        )
        if purpose is not None:
            query = query.where(UploadedFile.purpose == purpose)
        if after is not None:
            here, there = tuple_(*place), (after.created_at, after.id)
            query = query.where(here < there if newest else here > there)
        return list((await self._session.exec(query)).all())

    async def declared(self, model: str) -> Declared | None:
        return await self._session.get(Declared, model)

    async def declare(self, row: Declared) -> bool:
        """False for a revision that is not newer than the known one."""
        return await self._newer(row, "revision")

    async def parent(self, build: Build) -> str:
        """What a retraining builds on: the champion's dataset, or the drift's while no promotion is known."""
        if champion := await self._session.get(Champion, build.model):
            return champion.dataset_digest
        return (await self._session.get_one(Drift, build.drift_id)).dataset_digest

    async def promote(self, row: Champion) -> bool:
        """False for an alias event that is not newer than the known one."""
        return await self._newer(row, "sequence")

    async def _newer(self, row: Declared | Champion, counter: str) -> bool:
        column, said = getattr(type(row), counter), getattr(row, counter)
        known = (await self._session.exec(select(column).where(type(row).model == row.model))).one_or_none()
        if not is_newer(known or 0, said, counter):
            return False
        values = row.model_dump()
        statement = insert(type(row)).values(**values)
        statement = statement.on_conflict_do_update(
            index_elements=["model"], set_=values, where=column < said
        )
        return (await self._session.execute(statement.returning(text("1")))).scalar() is not None

    async def lock_model(self, model: str, *, shared: bool) -> None:
        """Until the end of the transaction: who asks for a dataset excludes those who bring labels for it.

        Else a wish and the last missing label, both not yet committed, would not see each other.
        """
        name = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        await self._session.execute(text(f"SELECT {name}(hashtextextended(:model, 0))"), {"model": model})

    async def waiting(self, model: str) -> Sequence[Build]:
        """Builds that wait, locked, so that labels which arrive together are counted one after the other."""
        query = (
            select(Build)
            .where(Build.model == model, Build.state == "waiting")
            .order_by(col(Build.created_at))
        )
        return (await self._session.exec(query.with_for_update())).all()

    async def models_waiting(self) -> list[tuple[str, Json]]:
        """Models with a build that waits, each with what caused the newest one."""
        query = (
            select(Build.model, Build.cause)
            .where(Build.state == "waiting")
            .distinct(col(Build.model))
            .order_by(Build.model, col(Build.created_at).desc())
        )
        return [(model, dict(cause or {})) for model, cause in (await self._session.exec(query)).all()]

    async def build(self, build_id: str, *, lock: bool = False) -> Build | None:
        query = select(Build).where(Build.id == build_id).execution_options(populate_existing=True)
        return (await self._session.exec(query.with_for_update() if lock else query)).first()

    async def build_of_dataset(self, digest: str) -> Build | None:
        """The first build that made this dataset."""
        query = select(Build).where(Build.digest == digest).order_by(col(Build.finished_at)).limit(1)
        return (await self._session.exec(query)).first()

    async def builds(
        self, model: str | None, state: str | None, after: Build | None, limit: int
    ) -> Sequence[Build]:
        """A page of builds, newest first, following `after`; without what only one build's page shows."""
        place = (col(Build.created_at), col(Build.id))
        query = select(Build).order_by(*(part.desc() for part in place)).limit(limit)
        query = query.options(*(defer(getattr(Build, name)) for name in ("rejects", "lengths", "cause")))
        if model:
            query = query.where(Build.model == model)
        if state:
            query = query.where(Build.state == state)
        if after is not None:
            query = query.where(tuple_(*place) < (after.created_at, after.id))
        return (await self._session.exec(query)).all()

    async def ended_builds(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """How many builds have ended, by why and state; and how many rows they dropped, by reason."""
        ended = await self._session.execute(text(_ENDED))
        dropped = await self._session.execute(text(_DROPPED))
        return {(why, state): number for why, state, number in ended}, {
            row[0]: int(row[1]) for row in dropped
        }

    async def files_of(self, build: Build) -> Sequence[UploadedFile]:
        """In the order of the build."""
        query = select(UploadedFile).where(col(UploadedFile.id).in_(build.files))
        found = {file.id: file for file in (await self._session.exec(query)).all()}
        return [found[file_id] for file_id in build.files if file_id in found]

    async def drift(self, drift_id: str) -> Drift | None:
        return await self._session.get(Drift, drift_id)

    async def comparison(self, digest: str, against: str) -> Comparison | None:
        return await self._session.get(Comparison, (digest, against))

    async def generation(self, model: str, digests: Collection[str]) -> int:
        """The highest generation among these datasets of a model; 0 when none is known."""
        query = select(func.max(Dataset.generation)).where(
            Dataset.model == model, col(Dataset.digest).in_(digests)
        )
        return (await self._session.exec(query)).one() or 0

    async def labels(self, model: str, digest: str) -> list[Labelled]:
        """Labels that the dataset `digest` and its ancestors have not taken in, newest first."""
        rows = await self._session.execute(text(_LABELS + _NEWEST), {"model": model, "digest": digest})
        return [Labelled(*row) for row in rows]

    async def voices(self, model: str, digest: str) -> list[Voices]:
        """The same labels, counted by author."""
        rows = await self._session.execute(text(_LABELS + _VOICES), {"model": model, "digest": digest})
        return [Voices(*row) for row in rows]

    async def places(self, model: str, answers: Sequence[str]) -> list[Labelled]:
        """Where the texts of these answers are."""
        found = select(Prediction).where(Prediction.model == model, col(Prediction.answer_id).in_(answers))
        rows = (await self._session.exec(found)).all()
        return [Labelled(row.answer_id, "", row.key, row.line, None, "") for row in rows]

    async def judgements_of(self, model: str, subject: str, answers: Sequence[str]) -> list[Feedback]:
        """Judgements by a subject, or of these answers."""
        query = select(Feedback).where(
            Feedback.model == model, or_(col(Feedback.actor) == subject, col(Feedback.answer_id).in_(answers))
        )
        return list((await self._session.exec(query)).all())

    async def taken_in_by(self, feedback_ids: Sequence[str]) -> list[str]:
        """Digests of the datasets that have rows of these judgements."""
        query = select(Used.digest).where(col(Used.feedback_id).in_(feedback_ids)).distinct()
        return sorted((await self._session.exec(query)).all())

    async def forget(
        self, model: str, subject: str, answers: Sequence[str], prompts: Collection[bytes]
    ) -> int:
        """Keep these prompts out of datasets, and let no row refer to what a subject said; returns how many did."""
        if prompts:
            rows = [{"model": model, "prompt": prompt} for prompt in prompts]
            await self._session.execute(insert(Erased).on_conflict_do_nothing(), rows)
        gone = await self._session.execute(
            delete(Prediction).where(col(Prediction.model) == model, col(Prediction.answer_id).in_(answers))
        )
        theirs = or_(col(Feedback.actor) == subject, col(Feedback.answer_id).in_(answers))
        words = await self._session.execute(
            update(Feedback)
            .where(col(Feedback.model) == model, theirs)
            .values(
                correction=None,
                corrected=None,
                actor=case((col(Feedback.actor) == subject, "erased"), else_=col(Feedback.actor)),
            )
        )
        return int(gone.rowcount + words.rowcount)  # type: ignore[attr-defined]

    async def with_rejects(self, model: str) -> Sequence[Build]:
        """Builds that quote rows they left out."""
        query = select(Build).where(Build.model == model, col(Build.rejects) != text("'[]'::jsonb"))
        return (await self._session.exec(query.with_for_update())).all()

    async def erased(self, model: str) -> frozenset[bytes]:
        """Prompts that no dataset may have."""
        return frozenset((await self._session.exec(select(Erased.prompt).where(Erased.model == model))).all())

    async def use(self, digest: str, parents: Sequence[str], feedback_ids: Sequence[str]) -> None:
        """Remember what a dataset has taken in, its parents' share included."""
        await self._session.execute(
            text(
                "INSERT INTO used (digest, feedback_id) SELECT :digest, feedback_id FROM used "
                "WHERE digest = ANY(:parents) ON CONFLICT DO NOTHING"
            ),
            {"digest": digest, "parents": list(parents)},
        )
        if feedback_ids:
            rows = [{"digest": digest, "feedback_id": feedback_id} for feedback_id in feedback_ids]
            await self._session.execute(insert(Used).on_conflict_do_nothing(), rows)


async def waits(work: UnitOfWork, correlation_ids: Sequence[str]) -> list[Json]:
    """What the builds of these stories wait for: `reason` and the `command` that shows more."""
    query = select(Build).where(
        col(Build.state) == "waiting",
        col(Build.detail) != "",
        col(Build.cause)["correlationid"].as_string().in_(correlation_ids),
    )
    return [
        {
            "reason": f"the dataset waits: {build.detail.rstrip('.')}",
            "command": f"driftwheel datasets show {build.id}",
        }
        for build in (await work.session.exec(query)).all()
    ]
