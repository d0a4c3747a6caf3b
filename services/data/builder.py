"""The job that makes a dataset: gather rows, run the pipeline, publish, announce once."""

import asyncio
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import structlog

from services.data import pipeline, sources
from services.data.domain import DATASETS, ENDED, UPLOADS, Build, Chosen, Dataset, UploadedFile, choose
from services.data.lengths import Lengths
from services.data.pipeline import Tally
from services.data.rows import SPLITS, Kept, Placed, Reject
from services.data.service import lacking, upload_key
from services.data.settings import Settings
from services.data.store import Store
from services.data.tokens import Tokens
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import ObjectStore, Published, fetch, publish
from shared.contracts.envelope import Envelope
from shared.contracts.errors import Invalid, NotFound
from shared.contracts.events import DatasetReady
from shared.contracts.policy import DataPolicy
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import Attempt
from shared.service.clock import Clock

log = structlog.get_logger()
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Plan:
    """Everything a build reads from the database, so that the rest needs none."""

    build_id: str
    model: str
    policy: DataPolicy
    files: Sequence[UploadedFile] = ()
    format: str | None = None
    parents: tuple[str, ...] = ()
    labels: Chosen = field(default_factory=lambda: Chosen([], [], []))
    erased: frozenset[bytes] = frozenset()


class Builder:
    def __init__(self, objects: ObjectStore, settings: Settings, clock: Clock) -> None:
        self._objects = objects
        self._settings = settings
        self._clock = clock
        self._tokens: Tokens | None = None

    async def run(self, attempt: Attempt, build_id: str) -> None:
        """Make the dataset of a build. Safe to repeat: the same rows and policy give the same digest."""
        async with attempt.work() as work:
            plan = await self._plan(work, build_id)
        if plan is None:
            return
        with tempfile.TemporaryDirectory(prefix="driftwheel-build-") as folder:
            tally = Tally()
            await self._write(plan, tally, Path(folder))
            await attempt.check()
            reason = pipeline.shortcoming(tally, plan.policy)
            published = None if reason else await self._publish(plan, tally, Path(folder))
        async with attempt.work() as work:
            await self._finish(work, plan, tally, published, reason or "")

    async def failed(self, attempt: Attempt, reason: str, build_id: str) -> None:
        async with attempt.work() as work:
            build = await Store(work.session).build(build_id, lock=True)
            if build and build.state not in ENDED:
                build.state, build.detail, build.finished_at = "failed", reason, self._clock.now()

    async def _plan(self, work: UnitOfWork, build_id: str) -> Plan | None:
        """None when there is nothing to do: the build has ended, or something is missing again."""
        store = Store(work.session)
        build = await store.build(build_id, lock=True)
        if build is None or build.state not in {"queued", "running"}:
            return None
        if build.drift_id:
            await store.lock_model(build.model, shared=False)
            if reason := await lacking(store, build):
                build.state, build.detail = "waiting", reason
                return None
        build.state = "running"
        declared = await store.declared(build.model)
        if declared is None:
            raise Invalid("The model is not declared.", "Declare it: driftwheel apply POLICY.yaml")
        policy, erased = declared.parsed(), await store.erased(build.model)
        if not build.drift_id:
            files = [file for file_id in build.files if (file := await store.file(file_id))]
            return Plan(build.id, build.model, policy.data, files, build.format, erased=erased)
        parent = await store.parent(build)
        labels = choose(await store.labels(build.model, parent), policy.retrain.max_rows_per_subject)
        return Plan(build.id, build.model, policy.data, parents=(parent,), labels=labels, erased=erased)

    async def _write(self, plan: Plan, tally: Tally, folder: Path) -> None:
        """The three split files in `folder`; counts in `tally`."""
        rows = await self._uploads(plan, folder) if plan.files else await self._retraining(plan, folder)
        await asyncio.to_thread(self._run_pipeline, rows, plan, tally, folder)

    async def _uploads(self, plan: Plan, folder: Path) -> Iterator[Placed | Reject]:
        parts = []
        for file in plan.files:
            path = folder / file.id
            await self._objects.download(UPLOADS, upload_key(file.sha256), path)
            parts.append((path, file))
        limit = self._settings.max_row_bytes
        return chain.from_iterable(
            sources.uploaded(path, file.filename, file.sha256, plan.format, limit) for path, file in parts
        )

    async def _retraining(self, plan: Plan, folder: Path) -> Iterator[Placed | Reject]:
        """What should win comes first: corrections, then what is known, then our own approved answers."""
        parents = []
        for digest in plan.parents:
            try:
                await fetch(self._objects, DATASETS, digest, folder / digest)
            except NotFound as error:
                raise Invalid(
                    f"The parent dataset {digest} is gone from the store.", "Restore it."
                ) from error
            parents.append(sources.prior(folder / digest, digest))
        texts = await sources.texts(self._objects, [*plan.labels.corrected, *plan.labels.own])
        written = await sources.corrections(self._objects, plan.labels.corrected)
        return chain(
            sources.judged(plan.labels.corrected, texts, written),
            *parents,
            sources.judged(plan.labels.own, texts, written),
            sources.refused(plan.labels.refused),
        )

    def _run_pipeline(self, rows: Iterable[Placed | Reject], plan: Plan, tally: Tally, folder: Path) -> None:
        self._tokens = self._tokens or Tokens(self._settings.base_model)
        checks = pipeline.rules(plan.policy, self._tokens, plan.erased)
        kept = pipeline.run(rows, checks, plan.policy.max_own_share, tally, self._settings.max_rows)
        lengths = Lengths(self._tokens)
        write(lengths.watch(kept), folder)
        tally.lengths = lengths.view()

    async def _publish(self, plan: Plan, tally: Tally, folder: Path) -> Published:
        template = (self._tokens or Tokens(self._settings.base_model)).template
        files: dict[str, Path | bytes] = {f"{split}.jsonl": folder / f"{split}.jsonl" for split in SPLITS}
        files["chat_template.jinja"] = template.encode()
        return await publish(self._objects, DATASETS, files, self._meta(plan, tally, template))

    def _meta(self, plan: Plan, tally: Tally, template: str) -> dict[str, Any]:
        """What, with the files, decides the digest: nothing that differs between two builds of the same rows."""
        return {
            "kind": "dataset",
            "model": plan.model,
            "base_digest": base_digest(self._settings.base_model),
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
            "policy": plan.policy.model_dump(mode="json"),
            "parents": list(plan.parents),
            "sources": [file.sha256 for file in plan.files],
            "counts": {"read": tally.read, "rows": tally.rows, "dropped": tally.dropped},
        }

    async def _finish(
        self, work: UnitOfWork, plan: Plan, tally: Tally, published: Published | None, detail: str
    ) -> None:
        build = await Store(work.session).build(plan.build_id, lock=True)
        if build is None or build.state != "running":
            return
        build.state, build.detail, build.finished_at = "failed", detail, self._clock.now()
        build.read, build.rows, build.dropped = tally.read, tally.rows, tally.dropped
        build.parents, build.lengths = list(plan.parents), tally.lengths
        build.rejects = [reject._asdict() for reject in tally.rejects]
        if published:
            build.state, build.digest = "ready", published.digest
            await self._announce(work, build, plan)
        log.info("build.ended", build=build.id, state=build.state, digest=build.digest, detail=build.detail)

    async def _announce(self, work: UnitOfWork, build: Build, plan: Plan) -> None:
        """Emit dataset.ready in the story of the wish, but never twice for the same dataset."""
        store, digest = Store(work.session), str(build.digest)
        generation = 1 + await store.generation(plan.model, plan.parents)
        dataset = Dataset(
            model=plan.model, digest=digest, generation=generation, created_at=self._clock.now()
        )
        if not await store.add_once(dataset):
            build.generation = await store.generation(plan.model, [digest])
            build.detail = "The same rows and policy were announced before; that dataset stands."
            return
        build.generation = generation
        labels = [*plan.labels.corrected, *plan.labels.own]
        await store.use(digest, plan.parents, [label.feedback_id for label in labels])
        work.cause = Envelope.from_json(build.cause) if build.cause else work.cause
        work.emit(
            DatasetReady.model_validate(
                {
                    "model": plan.model,
                    "digest": digest,
                    "generation": generation,
                    "rows": build.rows,
                    "dropped": build.dropped,
                    "parents": plan.parents,
                    "why": build.why,
                    "drift_id": build.drift_id,
                }
            )
        )


def write(rows: Iterable[Kept], folder: Path) -> None:
    """`<split>.jsonl` for every split, in the order of `rows`: the same rows give the same bytes."""
    encode = msgspec.json.Encoder().encode
    with ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / f"{split}.jsonl").open("wb", _BUFFER)) for split in SPLITS
        }
        for row, split, _place in rows:
            files[split].write(encode(row) + b"\n")
