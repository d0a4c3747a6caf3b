"""Makes the engine hold what is wanted: fetch, admit, load, probe; again after every restart of the engine.

Nothing here waits for the database, and what was fetched once needs no store: an engine that restarts while both are
away gets its adapters back.
"""

import asyncio
import hashlib
import json
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import structlog

from services.serving import store
from services.serving.admission import BaseSpec, admit
from services.serving.domain import Adapter, Snapshot
from services.serving.engines import EngineClient
from services.serving.last_known import Documents
from services.serving.live import Live, changed
from services.serving.metrics import REFUSED
from services.serving.probe import Golden, probe, read_report
from services.serving.service import ServingService
from services.serving.settings import Settings
from shared.artifacts.objects import MANIFEST, Manifest, ObjectStore, fetch, object_key
from shared.contracts.errors import DriftwheelError, Unavailable
from shared.delivery.unit_of_work import Database

ADAPTERS = "adapters"
_LONGEST_PAUSE_SECONDS = 30.0
_FETCH_SECONDS = 15.0
"""So long one adapter's fetching holds the others back; it goes on behind that."""
_DIGEST = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger()


class Proof(NamedTuple):
    """What an adapter is admitted and probed with."""

    manifest: Manifest
    golden: tuple[Golden, ...]


class Report(NamedTuple):
    """How far an adapter came, for people to see."""

    adapter: Adapter
    state: str
    reason: str = ""


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
        self._documents = Documents(settings.state_folder / "documents")
        self._fetching: dict[str, asyncio.Task[Proof]] = {}
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._refused: set[str] = set()
        self._digests: dict[str, str] = {}
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
            for task in self._fetching.values():
                task.cancel()
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
        self._give_up({adapter.engine_name for adapter in snapshot.wanted()})
        for adapter in snapshot.wanted():
            if adapter.engine_name not in self._live.ready and self._is_due(adapter, snapshot):
                await self._try(adapter, loaded=adapter.engine_name in loaded)
        if self._live.fresh:
            await self._drop(loaded)

    def _give_up(self, wanted: Collection[str]) -> None:
        """Fetch no more what nobody wants."""
        for name in self._fetching.keys() - wanted:
            self._fetching.pop(name).cancel()

    async def _look(self) -> set[str] | None:
        """What the engine holds; None if it does not answer."""
        try:
            return await self._engine.loaded() if await self._engine.health() else None
        except Unavailable:
            return None

    def _is_due(self, adapter: Adapter, snapshot: Snapshot) -> bool:
        """A refused adapter is left alone, unless users wait for it: a champion is tried again and again."""
        refused = adapter.state == "refused" or adapter.engine_name in self._refused
        refused = refused and not snapshot.is_champion(adapter)
        return not refused and time.monotonic() >= self._not_before.get(adapter.engine_name, 0)

    async def _try(self, adapter: Adapter, *, loaded: bool) -> None:
        name = adapter.engine_name
        try:
            proof = await self._proof(adapter)
            if proof is None:
                return
            await self._bring_up(adapter, proof, loaded=loaded)
        except (DriftwheelError, TimeoutError, OSError) as error:
            self._retry_later(name)
            permanent = isinstance(error, DriftwheelError) and not error.retryable
            log.warning(
                "adapter.failed", adapter=name, error=str(error) or type(error).__name__, refused=permanent
            )
            if permanent:
                # At once: one that computes no numbers may spoil others' answers.
                await self._engine.unload(name)
                REFUSED.inc()
                self._refused.add(name)
                self._reports.put_nowait(Report(adapter, "refused", str(error)))
            return
        self._refused.discard(name)
        self._not_before.pop(name, None)
        self._pause.pop(name, None)
        self._live.set_ready(self._live.ready | {name})
        log.info("adapter.ready", adapter=name)

    async def _proof(self, adapter: Adapter) -> Proof | None:
        """None while it is still being fetched. Raises what the fetching raises."""
        name = adapter.engine_name
        wait = 0.0 if name in self._fetching else _FETCH_SECONDS
        if name not in self._fetching:
            self._fetching[name] = asyncio.ensure_future(self._fetch(adapter))
        done, _ = await asyncio.wait({self._fetching[name]}, timeout=wait)
        return await self._fetching.pop(name) if done else None

    async def _fetch(self, adapter: Adapter) -> Proof:
        """Evidence, manifest and files, each from the store only where it is not here as it should be."""
        digest, evidence = adapter.adapter_digest, adapter.evidence_sha256
        report = await self._documents.get(
            evidence, lambda: self._objects.get(adapter.evidence_bucket, adapter.evidence_key)
        )
        golden = read_report(report, evidence)
        content = await self._documents.get(
            digest, lambda: self._objects.get(ADAPTERS, object_key(digest, MANIFEST))
        )
        folder = self._folder(adapter)
        manifest = await asyncio.to_thread(_whole, folder, content, digest)
        return Proof(manifest or await fetch(self._objects, ADAPTERS, digest, folder), golden)

    async def _bring_up(self, adapter: Adapter, proof: Proof, *, loaded: bool) -> None:
        """Raises a retryable error if the engine is away, any other if the adapter must not be served."""
        name = adapter.engine_name
        folder = self._folder(adapter)
        await asyncio.to_thread(self._admit, adapter, folder, proof.manifest)
        self._reports.put_nowait(Report(adapter, "admitted"))
        if not loaded:
            await self._engine.load(name, folder)
        self._reports.put_nowait(Report(adapter, "loaded"))
        wrong = await probe(
            self._engine, name, proof.golden, self._settings.probe_share, self._settings.probe_seconds
        )
        if wrong:
            raise DriftwheelError(wrong)
        self._reports.put_nowait(Report(adapter, "probed"))

    def _admit(self, adapter: Adapter, folder: Path, manifest: Manifest) -> None:
        admit(
            folder,
            base=self._base,
            base_digest=adapter.base_digest,
            manifest={name: str(file["sha256"]) for name, file in manifest.files.items()},
            targets=adapter.targets,
            max_rank=self._settings.max_rank,
        )

    async def keep_reporting(self) -> None:
        """Write down how far adapters came; an engine that works does not wait for a database that does not."""
        while True:
            report = await self._reports.get()
            while True:
                try:
                    await self._write(report)
                    break
                except Exception as error:  # noqa: BLE001 (whatever hinders it, it is tried again)
                    log.warning("adapter.state_not_written", error=type(error).__name__)
                    await asyncio.sleep(self._settings.poll_seconds)

    async def report(self) -> None:
        """Write down what is not yet. Raises whatever hinders it."""
        while not self._reports.empty():
            await self._write(self._reports.get_nowait())

    async def _write(self, report: Report) -> None:
        async with self._db.unit_of_work() as work:
            if report.state == "refused":
                await self._service.refuse(work, report.adapter, report.reason)
            else:
                await store.set_adapter_state(work, report.adapter.engine_name, report.state)

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
        # An adapter that answers its last requests may be wanted no more; its folder stays as long as it is loaded.
        self._digests |= {a.engine_name: a.adapter_digest for a in self._live.snapshot.adapters}
        self._digests = {name: digest for name, digest in self._digests.items() if name in kept}
        evidence = {a.evidence_sha256 for a in self._live.snapshot.wanted()}
        await asyncio.to_thread(self._sweep, set(self._digests.values()), evidence)

    def _sweep(self, digests: Collection[str], evidence: Collection[str]) -> None:
        self._documents.sweep({*digests, *evidence})
        cache = self._settings.adapter_cache
        for folder in cache.iterdir() if cache.is_dir() else ():
            if _DIGEST.fullmatch(folder.name) and folder.name not in digests:
                shutil.rmtree(folder)

    def _folder(self, adapter: Adapter) -> Path:
        return self._settings.adapter_cache / adapter.adapter_digest


def _whole(folder: Path, content: bytes, digest: str) -> Manifest | None:
    """The manifest, if these are its bytes and the folder holds what it lists."""
    if hashlib.sha256(content).hexdigest() != digest:
        return None
    document = json.loads(content)
    manifest = Manifest(document["files"], document["meta"])
    for name, expected in manifest.files.items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    return None
        except OSError:
            return None
    return manifest
