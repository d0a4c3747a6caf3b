"""The only SQL of this service."""

from collections.abc import Sequence

from sqlalchemy import text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.evaluator.domain import Champion, Declared, Evaluation
from shared.contracts.counters import is_newer
from shared.contracts.text import Json


class Store:
    """Reads and writes in the session of one unit of work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def declare(self, row: Declared) -> None:
        """Keep the newest revision."""
        await self._newer(row, "revision")

    async def promote(self, row: Champion) -> None:
        """Keep the newest alias event."""
        await self._newer(row, "sequence")

    async def _newer(self, row: Declared | Champion, counter: str) -> None:
        column, said = getattr(type(row), counter), getattr(row, counter)
        known = (await self._session.exec(select(column).where(type(row).model == row.model))).one_or_none()
        if not is_newer(known or 0, said, counter):
            return
        values = row.model_dump()
        statement = insert(type(row)).values(**values)
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["model"], set_=values, where=column < said)
        )

    async def declared(self, model: str) -> Declared | None:
        return await self._session.get(Declared, model)

    async def champion(self, model: str, *, lock: bool = False) -> Champion | None:
        """`lock` keeps it from moving until this unit of work ends."""
        query = select(Champion).where(Champion.model == model)
        return (await self._session.exec(query.with_for_update(read=True) if lock else query)).first()

    async def add(self, row: Evaluation) -> bool:
        """False if this comparison is known."""
        statement = (
            insert(Evaluation).values(**row.model_dump()).on_conflict_do_nothing().returning(text("1"))
        )
        return (await self._session.execute(statement)).scalar() is not None

    async def evaluation(self, evaluation_id: str) -> Evaluation | None:
        return await self._session.get(Evaluation, evaluation_id)

    async def evaluations(
        self, model: str | None, after: Evaluation | None, limit: int
    ) -> Sequence[Evaluation]:
        """Newest first, from behind `after` on."""
        query = select(Evaluation).order_by(col(Evaluation.created_at).desc(), col(Evaluation.id).desc())
        if model:
            query = query.where(Evaluation.model == model)
        if after:
            query = query.where(
                tuple_(col(Evaluation.created_at), col(Evaluation.id)) < (after.created_at, after.id)
            )
        return (await self._session.exec(query.limit(limit))).all()

    async def summaries(self, model: str | None, after: Evaluation | None, limit: int) -> list[Json]:
        """As `evaluations`, without the documents: the gates by name and verdict, and exact match on the test split."""
        where = ["model = :model"] if model else []
        where += ["(created_at, id) < (:at, :id)"] if after else []
        query = _SUMMARY.format(where=f"WHERE {' AND '.join(where)}" if where else "")
        values: Json = {"model": model, "limit": limit}
        if after:
            values |= {"at": after.created_at, "id": after.id}
        found = await self._session.execute(text(query), values)
        return [dict(row) for row in found.mappings()]


_SUMMARY = """
SELECT id, model, run_id, adapter_digest, dataset_digest, champion_version, drift_id, state, left(reason, 400) AS reason,
       verdict, created_at, started_at, finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('gate', v->'gate', 'verdict', v->'verdict')), '[]')
          FROM jsonb_array_elements(verdicts) AS v) AS gates,
       jsonb_path_query_first(scores, '$[*] ? (@.subject == "candidate" && {headline})') AS candidate,
       jsonb_path_query_first(scores, '$[*] ? (@.subject == "champion" && {headline})') AS champion
FROM evaluation {{where}} ORDER BY created_at DESC, id DESC LIMIT :limit
""".format(headline='@.split == "test" && @.metric == "exact_match"')
