"""The only SQL of this service."""

from collections.abc import Collection, Sequence
from typing import TypeVar

from sqlalchemy import func, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import defer
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.trainer.domain import ENDED, Declared, Entry, Request, Run
from shared.contracts.counters import is_newer

Row = TypeVar("Row", Run, Request)
_MEASURED_RUNS = 5


class Store:
    """Reads and writes in the session of one unit of work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def declared(self, model: str) -> Declared | None:
        return await self._session.get(Declared, model)

    async def declare(self, row: Declared) -> None:
        """Keep a policy unless a newer revision is known."""
        revision = select(Declared.revision).where(Declared.model == row.model)
        if not is_newer((await self._session.exec(revision)).one_or_none() or 0, row.revision, "revision"):
            return
        statement = insert(Declared).values(**row.model_dump())
        update = {name: statement.excluded[name] for name in ("revision", "base", "recipe", "budget")}
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["model"],
                set_=update,
                where=col(Declared.revision) < statement.excluded["revision"],
            )
        )

    async def add_once(self, row: Run | Request) -> bool:
        """False if such a row exists, whoever made it; it stays as it is."""
        values = row.model_dump()
        statement = insert(type(row)).values(**values).on_conflict_do_nothing().returning(text("1"))
        return (await self._session.execute(statement)).scalar() is not None

    async def run(self, run_id: str, *, lock: bool = False) -> Run | None:
        statement = select(Run).where(Run.id == run_id).execution_options(populate_existing=True)
        return (await self._session.exec(statement.with_for_update() if lock else statement)).first()

    async def runs(
        self,
        models: Collection[str] | None,
        after: Run | None,
        limit: int,
        state: str | None = None,
        dataset_digest: str | None = None,
    ) -> Sequence[Run]:
        """Newest first, without their curves: those of a page of runs are megabytes."""
        statement = select(Run).order_by(col(Run.created_at).desc(), col(Run.id).desc()).limit(limit)
        statement = statement.options(defer(Run.curve))  # type: ignore[arg-type]  # a column to SQLAlchemy
        if models is not None:
            statement = statement.where(col(Run.model).in_(models))
        if state:
            statement = statement.where(Run.state == state)
        if dataset_digest:
            statement = statement.where(Run.dataset_digest == dataset_digest)
        if after:
            place = tuple_(col(Run.created_at), col(Run.id))
            statement = statement.where(place < (after.created_at, after.id))
        return (await self._session.exec(statement)).all()

    async def these(self, run_ids: Collection[str]) -> Sequence[Run]:
        """Those of these runs that exist, in no order, with their curves."""
        return (await self._session.exec(select(Run).where(col(Run.id).in_(run_ids)))).all()

    async def last_round(self, run: Run) -> Run | None:
        """The newest try of the same wish."""
        statement = (
            select(Run)
            .where(Run.model == run.model, Run.dataset_digest == run.dataset_digest)
            .where(Run.recipe_hash == run.recipe_hash, Run.base_digest == run.base_digest)
            .order_by(col(Run.round).desc())
            .limit(1)
        )
        return (await self._session.exec(statement)).first()

    async def unfinished(self, run_ids: Collection[str]) -> set[str]:
        """Which of these runs exist and have not ended."""
        statement = select(Run.id).where(col(Run.id).in_(run_ids), col(Run.state).not_in(ENDED))
        return set((await self._session.exec(statement)).all())

    async def working(self) -> Sequence[Run]:
        """The runs that a worker has in hand."""
        statement = select(Run).where(col(Run.state).in_(("running", "cancelling")))
        return (await self._session.exec(statement)).all()

    async def tokens_per_second(self, base_digest: str) -> float | None:
        """What the last finished runs on this base really did; None before the first."""
        newest = (
            select(Run.tokens, Run.device_seconds)
            .where(Run.base_digest == base_digest, Run.state == "succeeded", Run.device_seconds > 1)
            .where(Run.recipe["method"].astext == "lora")
            .order_by(col(Run.finished_at).desc())
            .limit(_MEASURED_RUNS)
            .subquery()
        )
        statement = select(func.sum(newest.c.tokens) / func.sum(newest.c.device_seconds))
        rate = (await self._session.exec(statement)).first()
        return float(rate) if rate else None

    async def request(self, key: str) -> Request | None:
        return await self._session.get(Request, key)

    async def replies(self, run_id: str) -> list[Request]:
        """The requests for this run that named a reply topic."""
        statement = select(Request).where(Request.run_id == run_id, col(Request.reply_topic).is_not(None))
        return list((await self._session.exec(statement.order_by(Request.key))).all())

    def add_entry(self, entry: Entry) -> None:
        self._session.add(entry)

    async def entries(self, run_id: str, after: int, limit: int, newest: bool = False) -> Sequence[Entry]:
        """Announcements with a sequence above `after`; or, newest first, below it."""
        statement = select(Entry).where(Entry.run_id == run_id).limit(limit)
        if newest:
            statement = statement.where(Entry.sequence < after).order_by(col(Entry.sequence).desc())
        else:
            statement = statement.where(Entry.sequence > after).order_by(col(Entry.sequence))
        return (await self._session.exec(statement)).all()
