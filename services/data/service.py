"""Use cases: keep files, take wishes for datasets, and collect what serving and people report."""

import re
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from services.data.domain import (
    ENDED,
    PREDICTIONS,
    UPLOADS,
    Build,
    Champion,
    Declared,
    Drift,
    Feedback,
    Prediction,
    Provenance,
    UploadedFile,
    missing,
    usable,
)
from services.data.formats import FORMATS
from services.data.store import Store
from shared.artifacts.corrections import FOREIGN_CORRECTIONS, keep
from shared.artifacts.objects import ObjectStore, look
from shared.contracts.errors import Conflict, Invalid, NotFound
from shared.contracts.events import (
    DriftDetected,
    FeedbackRecorded,
    ModelDeclared,
    ModelPromoted,
    PredictionServed,
)
from shared.contracts.policy import RetrainGovernor
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import hold, request_cancel
from shared.jobs.worker import defer
from shared.service.clock import Clock

if TYPE_CHECKING:
    from services.data.upload import Received  # it brings FastAPI, which the process of a build does not need

log = structlog.get_logger()

PURPOSE = "fine-tune"
BUILD_JOB = "build"
FILE_ID, BUILD_ID, DIGEST = (
    re.compile("file-[0-9a-f]{24}"),
    re.compile("build-[0-9a-f]{24}"),
    re.compile("[0-9a-f]{64}"),
)


def upload_key(sha256: str) -> str:
    return f"sha256/{sha256}"


class DataService:
    def __init__(self, objects: ObjectStore, clock: Clock) -> None:
        self._objects = objects
        self._clock = clock

    async def add_file(self, work: UnitOfWork, subject: str, received: "Received") -> UploadedFile:
        """Keep an uploaded file: content first, then its row, so that no row names a missing object."""
        if received.purpose != PURPOSE:
            raise Invalid("This purpose is not supported.", f"Send purpose={PURPOSE}.")
        key = upload_key(received.sha256)
        if not await self._objects.exists(UPLOADS, key):
            await self._objects.upload(UPLOADS, key, received.path)
        file = UploadedFile(
            id=f"file-{secrets.token_hex(12)}",
            filename=received.filename,
            bytes=received.size,
            purpose=received.purpose,
            sha256=received.sha256,
            created_by=subject,
            created_at=self._clock.now(),
        )
        Store(work.session).add(file)
        return file

    async def files(
        self, work: UnitOfWork, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> list[UploadedFile]:
        start = await self.file(work, after) if after else None
        return await Store(work.session).files(purpose, start, limit, newest)

    async def file(self, work: UnitOfWork, file_id: str) -> UploadedFile:
        file = await Store(work.session).file(file_id) if FILE_ID.fullmatch(file_id) else None
        if file is None:
            raise NotFound("There is no such file.", "List them: GET /v1/files.")
        return file

    async def request_dataset(
        self, work: UnitOfWork, subject: str, model: str, files: Sequence[str], format_name: str | None
    ) -> Build:
        """Queue the build of a dataset from uploaded files."""
        store = Store(work.session)
        if await store.declared(model) is None:
            raise NotFound("This model is not declared.", "Declare it first: driftwheel apply POLICY.yaml")
        if format_name is not None and format_name not in FORMATS:
            raise Invalid("The format is unknown.", f"Leave it out, or use one of: {', '.join(FORMATS)}.")
        for file_id in files:
            await self.file(work, file_id)
        build = self._build(work, model, "upload", subject)
        build.files, build.format = list(files), format_name
        store.add(build)
        await self._queue(work, build)
        return build

    async def builds(
        self, work: UnitOfWork, model: str | None, state: str | None, after: str | None, limit: int
    ) -> Sequence[Build]:
        """Newest first; `after` is the last id of the page before."""
        start = await self.build(work, after) if after else None
        return await Store(work.session).builds(model, state, start, limit)

    async def build(self, work: UnitOfWork, any_id: str, *, lock: bool = False) -> Build:
        """By the id of a build, or the digest of the dataset it made."""
        store = Store(work.session)
        found = None
        if BUILD_ID.fullmatch(any_id):
            found = await store.build(any_id, lock=lock)
        elif DIGEST.fullmatch(any_id):
            found = await store.build_of_dataset(any_id)
        if found is None:
            raise NotFound("There is no such dataset or build.", "List them: driftwheel datasets list")
        return found

    async def cancel(self, work: UnitOfWork, build_id: str, who: str) -> Build:
        """End a build that waits or runs; its worker ends its process. Cancelling twice changes nothing.

        Raises:
            Conflict: the build has ended otherwise.
        """
        await hold(work, build_id)
        build = await self.build(work, build_id, lock=True)
        if build.state == "cancelled":
            return build
        if build.state in ENDED:
            raise Conflict(
                f"A build that is {build.state} cannot be cancelled.", "Look: driftwheel datasets show BUILD."
            )
        build.state, build.detail, build.finished_at = "cancelled", f"cancelled by {who}", self._clock.now()
        await request_cancel(work, build.id, build.detail)
        return build

    async def provenance(self, work: UnitOfWork, build: Build) -> Provenance:
        store = Store(work.session)
        drift = await store.drift(build.drift_id) if build.drift_id else None
        return Provenance(await store.files_of(build), drift)

    async def declare(self, work: UnitOfWork, event: ModelDeclared) -> None:
        store = Store(work.session)
        policy = event.policy.model_dump(mode="json")
        if await store.declare(Declared(model=event.model, revision=event.revision, policy=policy)):
            await self.wake(work, event.model)

    async def promote(self, work: UnitOfWork, event: ModelPromoted) -> None:
        """Retraining builds on the new champion; after a rollback, what only the other one had learned is new again."""
        row = Champion(
            model=event.model,
            model_version=event.model_version,
            dataset_digest=event.dataset_digest,
            sequence=event.sequence,
        )
        if await Store(work.session).promote(row):
            await self.wake(work, event.model)

    async def served(self, work: UnitOfWork, events: Sequence[PredictionServed]) -> None:
        """Remember where the texts of answers are; without a text an answer can teach nothing."""
        rows = [
            Prediction(
                answer_id=event.answer_id,
                model=event.model,
                outcome=event.outcome,
                key=event.text.key,
                line=event.text.line,
                served_at=event.served_at,
            )
            for event in events
            if event.text is not None and event.text.bucket == PREDICTIONS
        ]
        await Store(work.session).add_new(rows)

    async def judged(self, work: UnitOfWork, events: Sequence[FeedbackRecorded]) -> None:
        """Keep judgements. What a foreign producer wrote into its event is moved to the store, and kept nowhere else."""
        inline = {
            event.feedback_id: event.corrected
            for event in reversed(events)  # of one id the first counts
            if event.corrected is not None and event.correction is None
        }
        moved = await look(keep(self._objects, inline, FOREIGN_CORRECTIONS)) if inline else {}
        times = [cause.time for cause in work.causes] or [self._clock.now()] * len(events)
        rows = [
            Feedback(
                feedback_id=event.feedback_id,
                answer_id=event.answer_id,
                model=event.model,
                score=event.score,
                correction=ref.model_dump(mode="json")
                if (ref := event.correction or moved.get(event.feedback_id))
                else None,
                actor=event.actor,
                recorded_at=at,
            )
            for event, at in zip(events, times, strict=True)
        ]
        await Store(work.session).add_new(rows)

    async def drifted(self, work: UnitOfWork, event: DriftDetected) -> None:
        """Record a drift; if it asks for retraining, wish for one dataset, now or when enough labels are there.

        One wish of a model waits at a time: the newest drift takes the place of those before it.
        """
        store = Store(work.session)
        row = Drift(
            drift_id=event.drift_id,
            model=event.model,
            verdict=event.verdict,
            dataset_digest=event.dataset_digest,
            severity=event.severity,
            received_at=self._clock.now(),
        )
        if not await store.add_once(row) or event.verdict != "retrain":
            return
        await store.lock_model(event.model, shared=False)
        for older in await store.waiting(event.model):
            older.state, older.detail = "superseded", f"The drift {event.drift_id} took its place."
            older.finished_at = self._clock.now()
        build = self._build(work, event.model, "drift", "drift")
        build.drift_id = event.drift_id
        store.add(build)
        await self._advance(work, build)

    def _build(self, work: UnitOfWork, model: str, why: str, subject: str) -> Build:
        return Build(
            id=f"build-{secrets.token_hex(12)}",
            model=model,
            why=why,
            state="waiting",
            cause=work.cause.to_json() if work.cause else None,
            created_by=subject,
            created_at=self._clock.now(),
        )

    async def _queue(self, work: UnitOfWork, build: Build) -> None:
        build.state, build.detail = "queued", ""
        await work.session.flush()
        await defer(work, BUILD_JOB, lock=build.id, model=build.model, build_id=build.id)

    async def wake(self, work: UnitOfWork, model: str) -> None:
        """Start the builds for which nothing is missing any more. It reads all labels that no dataset has yet."""
        store = Store(work.session)
        await store.lock_model(model, shared=True)
        for build in await store.waiting(model):
            await self._advance(work, build)

    async def _advance(self, work: UnitOfWork, build: Build) -> None:
        build.detail = await lacking(Store(work.session), build) or ""
        if not build.detail:
            log.info("build.complete", build=build.id, model=build.model)
            await self._queue(work, build)


async def lacking(store: Store, build: Build) -> str | None:
    """What the dataset for a drift still waits for, or None."""
    declared = await store.declared(build.model)
    policy = declared.parsed() if declared else None
    share = (policy.retrain if policy else RetrainGovernor()).max_rows_per_subject
    parent = await store.parent(build)
    return missing(policy, usable(await store.voices(build.model, parent), share))
