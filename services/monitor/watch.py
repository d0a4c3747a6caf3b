"""The watch over every model: cut windows, judge them, announce what they say."""

import asyncio
from datetime import datetime, timedelta
from typing import cast

import structlog

from services.monitor.domain import REPORTS, Drift, Promotion, Verdict, Window
from services.monitor.evidence import Drift as DriftFact
from services.monitor.evidence import severity, weigh
from services.monitor.flights import Flights
from services.monitor.settings import Settings
from services.monitor.store import Store
from services.monitor.telemetry import QUALITY, RETRAINING_SECONDS, VERDICTS
from services.monitor.verdict import Decision, Look, Past, decide, wait
from shared.contracts.envelope import new_id
from shared.contracts.events import DriftDetected, Evidence, ObjectRef
from shared.contracts.policy import DriftPolicy, RetrainGovernor
from shared.delivery.unit_of_work import Database, UnitOfWork
from shared.jobs.worker import defer
from shared.service.clock import Clock

log = structlog.get_logger()

MEASURE_JOB = "measure"
_LOST_AFTER = timedelta(hours=1)
_PRUNE_EVERY = timedelta(hours=1)
_PAST = 50


class Watch:
    def __init__(self, db: Database, settings: Settings, clock: Clock) -> None:
        self._db = db
        self._settings = settings
        self._clock = clock
        self._pruned_at: datetime | None = None

    async def run(self) -> None:
        """Look at every model, again and again, until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(self._settings.tick_seconds)

    async def tick(self) -> None:
        """One look at every model. What fails for one does not hold up the others."""
        async with self._db.unit_of_work() as work:
            models = await Store(work).models()
        for model in models:
            for verdict in ("retrain", "label", "watch"):
                VERDICTS.labels(model, verdict)  # from 0: the first one must show in rate()
            try:
                async with self._db.unit_of_work() as work:
                    await self.judge(work, model)
                    await self._open_window(work, model)
            except Exception:
                log.exception("watch.failed", model=model)
        await self._prune()

    async def judge(self, work: UnitOfWork, model: str) -> None:
        """Decide on the newest measured windows; a verdict and its event are committed together, once per window."""
        store, flights, now = Store(work), Flights(work), self._clock.now()
        champion = await store.champion(model, lock=True)
        watched = await store.watched(model)
        if champion is None or watched is None:
            return
        rule, governor = watched.rule(), watched.governor()
        timeout = timedelta(seconds=governor.in_flight_timeout_seconds)
        await flights.time_out(model, now - timeout, now)
        past = await store.drifts(model, _PAST)
        await self._say_what_waits(flights, past, champion, governor)
        asked = [drift.announced_at for drift in past if drift.in_flight]
        RETRAINING_SECONDS.labels(model).set((now - min(asked, default=now)).total_seconds())
        windows = await store.measured(champion, rule.windows)
        if not windows:
            return
        await self._weigh(store, windows, champion, rule)
        grace = timedelta(seconds=self._settings.feedback_grace_seconds)
        decision = decide(
            [_look(window) for window in windows],
            [self._past(drift) for drift in past],
            rule,
            governor,
            now,
            grace,
        )
        windows[-1].reason = decision.reason
        if decision.verdict == "retrain":
            await flights.supersede_waiting(model, f"{windows[-1].id} asks anew", now)
        if decision.verdict != "none":
            self._announce(work, windows, decision, rule, now)

    async def _say_what_waits(
        self, flights: Flights, past: list[Drift], champion: Promotion, governor: RetrainGovernor
    ) -> None:
        waiting = [drift for drift in past if drift.waiting]
        if not waiting:
            return
        have = await flights.corrected_since(champion.model, champion.promoted_at)
        for drift in waiting:
            holds = self._holds(drift)
            await flights.set_stage(
                drift.id, wait(have, governor.min_corrected, champion.model_version, holds=holds)
            )

    def _holds(self, drift: Drift) -> bool:
        """A flight holds the next one while it trains or rolls out; while it waits for its dataset, only so long."""
        patience = timedelta(seconds=self._settings.dataset_patience_seconds)
        patient = self._clock.now() - drift.announced_at < patience
        return drift.in_flight and (patient or not drift.waiting)

    def _past(self, drift: Drift) -> Past:
        verdict = cast(Verdict, drift.verdict)
        return Past(drift.window_id, verdict, drift.announced_at, self._holds(drift))

    async def _weigh(
        self, store: Store, windows: list[Window], champion: Promotion, rule: DriftPolicy
    ) -> None:
        """Bring the facts of windows up to date with feedback that came after they were measured."""
        newest = await store.newest_feedback(champion.model)
        for window in windows:
            if window.feedback_seen >= newest:
                continue
            traffic = await store.traffic(window)
            drift = None
            if window.score is not None and window.bar is not None:
                drift = DriftFact(window.score, window.bar)
            facts = weigh(drift, traffic, champion.quality, rule)
            window.drifted, window.hurt, window.alarmed = facts.drifted, facts.hurt, facts.alarmed
            window.evidence = [item.model_dump() for item in facts.evidence]
            window.scored, window.mean_score = traffic.scored, traffic.mean_score
            window.corrected, window.feedback_seen = traffic.corrected, newest
        if (quality := windows[-1].mean_score) is not None:
            QUALITY.labels(champion.model).set(quality)

    def _announce(
        self, work: UnitOfWork, windows: list[Window], decision: Decision, rule: DriftPolicy, now: datetime
    ) -> None:
        newest = windows[-1]
        drift_id = f"drift-{new_id()}"
        evidence = (*(Evidence.model_validate(item) for item in newest.evidence), _counted(windows, rule))
        report = None
        if newest.report_sha256:
            report = ObjectRef(bucket=REPORTS, key=newest.report_key, sha256=newest.report_sha256)
        event = DriftDetected(
            model=newest.model,
            drift_id=drift_id,
            model_version=newest.model_version,
            dataset_digest=newest.dataset_digest,
            severity=severity(evidence[:-1]),
            verdict=decision.verdict,
            window_start=newest.started_at,
            window_end=newest.ended_at,
            window_predictions=newest.predictions,
            evidence=evidence,
            report=report,
        )
        Store(work).add(
            Drift(
                id=drift_id,
                model=newest.model,
                model_version=newest.model_version,
                window_id=newest.id,
                verdict=decision.verdict,
                severity=event.severity,
                event_id=work.emit(event),
                announced_at=now,
            )
        )
        newest.verdict = decision.verdict
        VERDICTS.labels(newest.model, decision.verdict).inc()
        log.warning(
            "drift.detected",
            model=newest.model,
            drift_id=drift_id,
            verdict=decision.verdict,
            why=decision.reason,
        )

    async def _open_window(self, work: UnitOfWork, model: str) -> None:
        """Cut the next window if enough answers have come, and have it measured. One at a time per model."""
        store, now = Store(work), self._clock.now()
        champion = await store.champion(model, lock=True)
        watched = await store.watched(model)
        if champion is None or watched is None:
            return
        if opened := await store.open_window(model):
            if now - opened.opened_at < _LOST_AFTER:
                return
            opened.state, opened.notes = "failed", ["its measurement was lost"]
            await work.session.flush()
        last = await store.last_window(model, champion.model_version)
        after = 0
        if last:
            after = last.middle_id if last.sequence == champion.sequence else last.last_id
        cut = await store.cut(champion, after, watched.rule().window_predictions)
        if cut is None:
            return
        window = Window(
            id=f"window-{new_id()}",
            model=model,
            sequence=champion.sequence,
            model_version=champion.model_version,
            dataset_digest=champion.dataset_digest,
            state="measuring",
            opened_at=now,
            **cut._asdict(),
        )
        store.add(window)
        await defer(work, MEASURE_JOB, lock=window.id, model=model, window_id=window.id)

    async def _prune(self) -> None:
        now = self._clock.now()
        if self._pruned_at is None or now - self._pruned_at >= _PRUNE_EVERY:
            async with self._db.unit_of_work() as work:
                await Store(work).prune(now - timedelta(days=self._settings.keep_days))
            self._pruned_at = now


def _look(window: Window) -> Look:
    return Look(
        window.id, window.measured_at or window.opened_at, window.drifted, window.hurt, window.alarmed
    )


def _counted(windows: list[Window], rule: DriftPolicy) -> Evidence:
    drifted = sum(window.drifted is True for window in windows)
    return Evidence(
        name="windows_drifted",
        value=drifted,
        threshold=rule.windows_drifted,
        exceeded=drifted >= rule.windows_drifted,
        detail=f"{drifted} of the newest {len(windows)} windows drifted",
    )
