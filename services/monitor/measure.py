"""The job that measures one window: read both samples, ask the detector, keep the report, judge."""

import hashlib
import json

import structlog

from services.monitor.detectors import Measurement, NotMeasurableError
from services.monitor.detectors.process import DetectorProcess
from services.monitor.domain import REPORTS, Window
from services.monitor.settings import Settings
from services.monitor.store import Store
from services.monitor.telemetry import DRIFT_SCORE, WINDOWS_FAILED
from services.monitor.texts import Place, reference, served
from services.monitor.watch import Watch
from shared.artifacts.objects import ObjectStore
from shared.contracts.errors import Invalid, NotFound
from shared.contracts.policy import DriftPolicy
from shared.jobs.attempts import Attempt
from shared.service.clock import Clock

log = structlog.get_logger()


class Measuring:
    def __init__(
        self, objects: ObjectStore, detectors: DetectorProcess, watch: Watch, settings: Settings, clock: Clock
    ) -> None:
        self._objects = objects
        self._detectors = detectors
        self._watch = watch
        self._settings = settings
        self._clock = clock

    async def run(self, attempt: Attempt, window_id: str) -> None:
        """Safe to repeat: the same window gives the same numbers, and only the first verdict is announced."""
        async with attempt.work() as work:
            store = Store(work)
            window = await store.window(window_id)
            watched = await store.watched(window.model) if window else None
            if window is None or watched is None or window.state != "measuring":
                return
            rule, places = watched.rule(), await store.places(window)
        measured, notes = await self._measure(window, rule, places)
        await attempt.check()
        sha256 = await self._keep(window, measured, notes, rule)
        async with attempt.work() as work:
            store = Store(work)
            # The champion's row is locked first, as every decision does, so that none waits for another in a ring.
            await store.champion(window.model, lock=True)
            row = await store.window(window_id, lock=True)
            if row is None or row.state != "measuring":
                return
            row.state, row.measured_at, row.notes, row.report_sha256 = (
                "measured",
                self._clock.now(),
                notes,
                sha256,
            )
            if measured:
                row.score, row.bar, row.has_page = measured.score, measured.bar, measured.drifted
                DRIFT_SCORE.labels(row.model).set(measured.score)
            await work.session.flush()
            await self._watch.judge(work, row.model)

    async def failed(self, attempt: Attempt, reason: str, window_id: str) -> None:
        async with attempt.work() as work:
            window = await Store(work).window(window_id, lock=True)
            if window and window.state == "measuring":
                window.state, window.notes = "failed", [reason]
                WINDOWS_FAILED.labels(window.model).inc()

    async def _measure(
        self, window: Window, rule: DriftPolicy, places: list[Place]
    ) -> tuple[Measurement | None, list[str]]:
        """The detector's answer, or None with the reason: a window without one still tells quality and latency."""
        current = await served(self._objects, places)
        notes = [f"{len(current)} of {window.predictions} answers have a readable prompt"]
        try:
            known = await reference(self._objects, window.dataset_digest, self._settings.reference_rows)
            notes.append(f"compared with {len(known)} training prompts")
            return await self._detectors.measure(rule.detector, known, current, rule.min_score), notes
        except (NotFound, Invalid) as error:
            log.error(
                "reference.unreadable", model=window.model, dataset=window.dataset_digest, error=error.detail
            )
            return None, [*notes, f"the training set cannot be read: {error.detail}"]
        except NotMeasurableError as error:
            return None, [*notes, f"not measurable: {error}"]

    async def _keep(
        self, window: Window, measured: Measurement | None, notes: list[str], rule: DriftPolicy
    ) -> str:
        """Store the report, and the page where there is something to see (it weighs megabytes); returns its SHA-256."""
        document = {
            "window": window.id,
            "model": window.model,
            "model_version": window.model_version,
            "dataset_digest": window.dataset_digest,
            "predictions": window.predictions,
            "detector": rule.detector,
            "score": measured.score if measured else None,
            "bar": measured.bar if measured else None,
            "notes": notes,
            "report": measured.report if measured else None,
        }
        data = json.dumps(document, sort_keys=True, allow_nan=False).encode()
        await self._objects.put(REPORTS, window.report_key, data)
        if measured and measured.drifted:
            await self._objects.put(REPORTS, window.page_key, measured.page.encode("utf-8", "replace"))
        return hashlib.sha256(data).hexdigest()
