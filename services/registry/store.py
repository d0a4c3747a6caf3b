"""The SQL of the use cases; what the catalogue reads is in lists.py."""

from collections.abc import Collection, Sequence

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from services.registry.domain import AliasEvent, Evidence, LogicalModel, ModelVersion, PolicyRevision, Rollout


class Store:
    """Reads and writes in the session of one unit of work."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, row: PolicyRevision | AliasEvent | Rollout) -> None:
        self._session.add(row)

    async def create_model(self, name: str) -> None:
        """Make sure there is a row to lock."""
        values = LogicalModel(name=name).model_dump()
        await self._session.execute(insert(LogicalModel).values(**values).on_conflict_do_nothing())

    async def lock_model(self, name: str) -> LogicalModel | None:
        """The model; nobody else changes anything of it until this unit of work ends."""
        query = select(LogicalModel).where(LogicalModel.name == name).with_for_update()
        return (await self._session.exec(query.execution_options(populate_existing=True))).first()

    async def names(self) -> Sequence[str]:
        """Of all declared models."""
        return (await self._session.exec(select(LogicalModel.name).order_by(LogicalModel.name))).all()

    async def model(self, name: str) -> LogicalModel | None:
        return await self._session.get(LogicalModel, name)

    async def policy(self, model: str, revision: int) -> PolicyRevision | None:
        return await self._session.get(PolicyRevision, (model, revision))

    async def policies(self, limit: int, names: Collection[str] | None = None) -> Sequence[PolicyRevision]:
        """The current policy of every model, or of these, by name."""
        query = (
            select(PolicyRevision)
            .join(LogicalModel, col(LogicalModel.name) == col(PolicyRevision.model))
            .where(LogicalModel.revision == PolicyRevision.revision)
            .order_by(PolicyRevision.model)
            .limit(limit)
        )
        if names is not None:
            query = query.where(col(PolicyRevision.model).in_(names))
        return (await self._session.exec(query)).all()

    async def add_version(self, row: ModelVersion) -> bool:
        """False if this adapter is known."""
        return await self._add_once(row)

    async def add_evidence(self, row: Evidence) -> bool:
        """False if this evaluation is known."""
        return await self._add_once(row)

    async def _add_once(self, row: ModelVersion | Evidence) -> bool:
        statement = insert(type(row)).values(**row.model_dump()).on_conflict_do_nothing().returning(text("1"))
        return (await self._session.execute(statement)).scalar() is not None

    async def version_of(self, model: str, adapter_digest: str) -> ModelVersion | None:
        return await self._session.get(ModelVersion, (model, adapter_digest))

    async def version(self, model: str, number: int) -> ModelVersion | None:
        query = select(ModelVersion).where(ModelVersion.model == model, ModelVersion.number == number)
        return (await self._session.exec(query)).first()

    async def states(self, model: str) -> dict[int, str]:
        """State by version number."""
        query = select(ModelVersion.number, ModelVersion.state).where(ModelVersion.model == model)
        return {
            number: state for number, state in (await self._session.exec(query)).all() if number is not None
        }

    async def evidence(self, model: str, adapter_digest: str) -> Sequence[Evidence]:
        """Evaluations of an adapter, oldest first."""
        query = select(Evidence).where(Evidence.model == model, Evidence.adapter_digest == adapter_digest)
        return (await self._session.exec(query.order_by(col(Evidence.received_at)))).all()

    async def alias_events(self, model: str) -> Sequence[AliasEvent]:
        """All of a model, in order."""
        query = select(AliasEvent).where(AliasEvent.model == model).order_by(col(AliasEvent.sequence))
        return (await self._session.exec(query)).all()

    async def promotions(self, model: str, limit: int) -> Sequence[AliasEvent]:
        """The newest moves of the champion, newest first."""
        query = select(AliasEvent).where(AliasEvent.model == model, AliasEvent.alias == "champion")
        return (await self._session.exec(query.order_by(col(AliasEvent.sequence).desc()).limit(limit))).all()

    async def rollout(self, rollout_id: str) -> Rollout | None:
        return await self._session.get(Rollout, rollout_id)
