"""Makes the engine hold what is wanted: fetch, admit, load, probe; again after every restart of the engine."""

import asyncio
import re
import shutil
import time
from pathlib import Path

import structlog

from services.serving import store
from services.serving.admission import BaseSpec, admit
from services.serving.domain import Adapter, Snapshot
from services.serving.engines import EngineClient
from services.serving.live import Live, changed
from services.serving.metrics import REFUSED
from services.serving.probe import Golden, probe, read_report
from services.serving.service import ServingService
from services.serving.settings import Settings
from shared.artifacts.objects import Manifest, ObjectStore, fetch
from shared.contracts.errors import DriftwheelError, Unavailable
from shared.delivery.unit_of_work import Database

ADAPTERS = "adapters"
_LONGEST_PAUSE_SECONDS = 30.0
_DIGEST = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger()


class Reconciler:
    """One loop per process and engine. What it finds out goes to `live`; the database only reports it."""

    def __init__(
        self,
        settings: Settings,
        engine: EngineClient,
        objects: ObjectStore,
        db: Database,
        service: ServingService,
        live: Live,
        base: BaseSpec,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._objects = objects
        self._db = db
        self._service = service
        self._live = live
        self._base = base
        self._golden: dict[str, tuple[Golden, ...]] = {}
        self._manifests: dict[str, Manifest] = {}
        self._not_before: dict[str, float] = {}
        self._pause: dict[str, float] = {}

    async def run(self) -> None:
        """Reconcile when something changed, and every few seconds anyway."""
        try:
            while True:
                try:
                    await self.reconcile()
                except Unavailable as error:
                    log.warning("reconciler.waiting", error=str(error))
                except Exception:
                    log.exception("reconciler.failed")
                await changed(self._live.wake_reconciler, self._settings.poll_seconds)
        finally:
            await self._engine.close()

    async def reconcile(self) -> None:
        """One comparison of wanted state and engine."""
        if not self._live.seen:
            return
        loaded = await self._look()
        if loaded is None:
            self._live.lost_engine()
            return
        self._live.engine_up = True
        # An engine that restarted has forgotten its adapters: they are loaded and probed again.
        self._live.set_ready(self._live.ready & loaded)
        snapshot = self._live.snapshot
        for adapter in snapshot.wanted():
            if adapter.engine_name not in self._live.ready and self._is_due(adapter, snapshot):
                await self._try(adapter, loaded=adapter.engine_name in loaded)
        await self._drop(loaded)

    async def _look(self) -> set[str] | None:
        """What the engine holds; None if it does not answer."""
        try:
            return await self._engine.loaded() if await self._engine.health() else None
        except Unavailable:
            return None

    def _is_due(self, adapter: Adapter, snapshot: Snapshot) -> bool:
        """A refused adapter is left alone, unless users wait for it: a champion is tried again and again."""
        refused = adapter.state == "refused" and not snapshot.is_champion(adapter)
        return not refused and time.monotonic() >= self._not_before.get(adapter.engine_name, 0)

    async def _try(self, adapter: Adapter, *, loaded: bool) -> None:
        name = adapter.engine_name
        try:
            await self._bring_up(adapter, loaded=loaded)
        except (DriftwheelError, TimeoutError, OSError) as error:
            self._retry_later(name)
            permanent = isinstance(error, DriftwheelError) and not error.retryable
            log.warning(
                "adapter.failed", adapter=name, error=str(error) or type(error).__name__, refused=permanent
            )
            if permanent:
                await self._engine.unload(
                    name
                )  # at once: one that computes no numbers may spoil others' answers
                await self._refuse(adapter, str(error))
            return
        self._not_before.pop(name, None)
        self._pause.pop(name, None)
        self._live.set_ready(self._live.ready | {name})
        log.info("adapter.ready", adapter=name)

    async def _bring_up(self, adapter: Adapter, *, loaded: bool) -> None:
        """Raises a retryable error if a part is away, any other if the adapter must not be served."""
        name = adapter.engine_name
        folder = self._folder(adapter)
        golden = await self._evidence(adapter)
        manifest = await self._fetch(adapter, folder)
        await asyncio.to_thread(self._admit, adapter, folder, manifest)
        await self._report(name, "admitted")
        if not loaded:
            await self._engine.load(name, folder)
        await self._report(name, "loaded")
        wrong = await probe(
            self._engine, name, golden, self._settings.probe_share, self._settings.probe_seconds
        )
        if wrong:
            raise DriftwheelError(wrong)
        await self._report(name, "probed")

    async def _evidence(self, adapter: Adapter) -> tuple[Golden, ...]:
        sha256 = adapter.evidence_sha256
        if sha256 not in self._golden:
            report = await self._objects.get(adapter.evidence_bucket, adapter.evidence_key)
            self._golden[sha256] = read_report(report, sha256)
        return self._golden[sha256]

    async def _fetch(self, adapter: Adapter, folder: Path) -> Manifest:
        """While the store is away, what was fetched before does: admission checks every byte of it again."""
        digest = adapter.adapter_digest
        try:
            self._manifests[digest] = await fetch(self._objects, ADAPTERS, digest, folder)
        except Unavailable:
            if digest not in self._manifests:
                raise
        return self._manifests[digest]

    def _admit(self, adapter: Adapter, folder: Path, manifest: Manifest) -> None:
        admit(
            folder,
            base=self._base,
            base_digest=adapter.base_digest,
            manifest={name: str(file["sha256"]) for name, file in manifest.files.items()},
            targets=adapter.targets,
            max_rank=self._settings.max_rank,
        )

    async def _report(self, name: str, state: str) -> None:
        """For people to see; an engine that works does not wait for a database that does not."""
        try:
            async with self._db.unit_of_work() as work:
                await store.set_adapter_state(work, name, state)
        except Exception as error:  # noqa: BLE001 (any failure means the same: not written)
            log.warning("adapter.state_not_written", adapter=name, state=state, error=type(error).__name__)

    async def _refuse(self, adapter: Adapter, reason: str) -> None:
        REFUSED.inc()
        async with self._db.unit_of_work() as work:
            await self._service.refuse(work, adapter, reason)

    def _retry_later(self, name: str) -> None:
        pause = self._pause.get(name, self._settings.poll_seconds / 2)
        self._not_before[name] = time.monotonic() + pause
        self._pause[name] = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _drop(self, loaded: set[str]) -> None:
        """Unload what nobody wants and nobody waits for; then, and only then, delete its folder."""
        kept = {adapter.engine_name for adapter in self._live.snapshot.wanted()}
        for name in sorted(loaded - kept):
            self._live.set_ready(self._live.ready - {name})
            if self._live.in_flight[name]:
                kept.add(name)
            else:
                await self._engine.unload(name)
                log.info("adapter.unloaded", adapter=name)
        known = {adapter.engine_name: adapter.adapter_digest for adapter in self._live.snapshot.adapters}
        await asyncio.to_thread(self._sweep, {known[name] for name in kept if name in known})

    def _sweep(self, digests: set[str]) -> None:
        cache = self._settings.adapter_cache
        for folder in cache.iterdir() if cache.is_dir() else ():
            if _DIGEST.fullmatch(folder.name) and folder.name not in digests:
                shutil.rmtree(folder)

    def _folder(self, adapter: Adapter) -> Path:
        return self._settings.adapter_cache / adapter.adapter_digest
