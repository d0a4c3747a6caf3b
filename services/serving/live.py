"""What one process knows by heart: the wanted state, what its engine really has, and the routes that follow."""

import asyncio
import contextlib
from collections import Counter

from services.serving.domain import Adapter, LogicalModel, Snapshot
from services.serving.metrics import CHAMPIONS_MISSING, LOADED
from services.serving.ramp import TRIPWIRE
from services.serving.routing import Route, RoutingTable, Split, Target


def build(
    snapshot: Snapshot, ready: frozenset[str], tripped: frozenset[str], base: Target | None
) -> RoutingTable:
    """The routes: only adapters in `ready` get requests, and a rollout in `tripped` gets no traffic."""
    targets = {(a.model, a.model_version): Target(a.engine_name, a.model_version) for a in snapshot.adapters}

    def target(model: str, version: int | None) -> Target | None:
        found = targets.get((model, version)) if version is not None else None
        return found if found and found.engine_name in ready else None

    def split(model: LogicalModel) -> Split | None:
        rollout = snapshot.rollouts.get(model.rollout_id or "")
        challenger = target(model.name, rollout.model_version) if rollout else None
        if rollout is None or challenger is None or rollout.id in tripped:
            return None
        return Split(rollout.id, challenger, rollout.weight, rollout.salt.encode())

    return RoutingTable(
        {
            name: Route(
                promoted=model.champion_version is not None,
                champion=target(name, model.champion_version),
                previous=target(name, model.previous_version),
                base=base if model.champion_version is None else None,
                split=split(model),
                pinned={
                    version: found
                    for (owner, version), found in targets.items()
                    if owner == name and found.engine_name in ready
                },
            )
            for name, model in snapshot.models.items()
        }
    )


async def changed(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, but no longer than that."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    event.clear()


class Live:
    """Shared by the request path and the loops of one process. The table is replaced as a whole."""

    def __init__(self, base_name: str, *, base_answers: bool) -> None:
        self.base_name = base_name
        self._base = Target(base_name, None) if base_answers else None
        self.snapshot = Snapshot()
        self.seen = False
        self.fresh = False
        self.ready: frozenset[str] = frozenset()
        self.engine_up = False
        self.table = RoutingTable()
        self.in_flight: Counter[str] = Counter()
        self.errors_in_a_row: Counter[str] = Counter()
        self.wake_reconciler = asyncio.Event()
        self.wake_controller = asyncio.Event()

    def see(self, snapshot: Snapshot) -> None:
        """Take over what the database says now."""
        self.fresh = True
        self._take(snapshot)

    def recall(self, snapshot: Snapshot) -> None:
        """Go on with what was in force before; the database may know better, so nothing is unloaded for it."""
        self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        self.snapshot, self.seen = snapshot, True
        self._rebuild()
        self.wake_reconciler.set()
        self.wake_controller.set()

    def set_ready(self, ready: frozenset[str]) -> None:
        if ready != self.ready:
            self.ready = ready
            self._rebuild()
            self.wake_controller.set()

    def lost_engine(self) -> None:
        """The engine does not answer: nothing is routable until it was probed again."""
        if self.engine_up:
            self.wake_reconciler.set()
        self.engine_up = False
        self.set_ready(frozenset())

    def doubt_engine(self) -> None:
        """A connection failed: the reconciler looks now whether the engine is there and what it has."""
        self.wake_reconciler.set()

    def lost_adapter(self, engine_name: str) -> None:
        """The engine does not know the adapter (any more)."""
        self.set_ready(self.ready - {engine_name})
        self.wake_reconciler.set()

    def challenger_failed(self, rollout_id: str) -> None:
        """A challenger failed where the champion answered. At the tripwire its traffic ends before any transaction."""
        self.errors_in_a_row[rollout_id] += 1
        if self.errors_in_a_row[rollout_id] >= TRIPWIRE:
            self._rebuild()
            self.wake_controller.set()

    def challenger_answered(self, rollout_id: str) -> None:
        if self.errors_in_a_row[rollout_id] < TRIPWIRE:
            self.errors_in_a_row.pop(rollout_id, None)

    def problems(self) -> list[str]:
        """Why this process can answer nobody yet. What hinders one model alone is `missing`, and an alert."""
        if not self.seen:
            return ["the wanted state is not read yet"]
        if not self.engine_up:
            return ["the engine does not answer"]
        answered = any(route.answers for route in self.table.routes.values())
        return [] if answered else self.missing()

    def missing(self) -> list[str]:
        """Champions that do not answer, and that waiting may bring: a refused one stays away."""
        return [
            f"{adapter.model}@champion is not loaded"
            for adapter in self._missing_champions()
            if adapter.state != "refused"
        ]

    def _missing_champions(self) -> list[Adapter]:
        return [
            adapter
            for adapter in self.snapshot.adapters
            if self.snapshot.is_champion(adapter) and adapter.engine_name not in self.ready
        ]

    def _rebuild(self) -> None:
        known = self.snapshot.rollouts
        self.errors_in_a_row = Counter({key: n for key, n in self.errors_in_a_row.items() if key in known})
        tripped = frozenset(key for key, n in self.errors_in_a_row.items() if n >= TRIPWIRE)
        self.table = build(self.snapshot, self.ready, tripped, self._base)
        LOADED.set(len(self.ready))
        CHAMPIONS_MISSING.set(len(self._missing_champions()))
