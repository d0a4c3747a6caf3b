"""The job: one adapter measured, judged and announced. Killed anywhere, the next attempt goes on and announces once."""

import asyncio
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog

from services.evaluator import gates, report, rows
from services.evaluator.answers import AnswerSheet, sheets
from services.evaluator.domain import ENDED, Champion, Difference, Evaluation, Split
from services.evaluator.gates import Place
from services.evaluator.outputs import BUCKET
from services.evaluator.report import Answers
from services.evaluator.service import queue
from services.evaluator.settings import Settings
from services.evaluator.store import Store
from services.evaluator.subjects import Exam, Speaker, Subjects
from shared.artifacts.base_model import base_digest
from shared.artifacts.objects import ObjectStore, fetch, object_key
from shared.contracts.errors import Invalid, NotFound, RetryLater
from shared.contracts.events import ModelEvaluated, ObjectRef, Score, Verdict
from shared.contracts.policy import Gate, Generation
from shared.contracts.text import Json
from shared.delivery.unit_of_work import UnitOfWork
from shared.jobs.attempts import Attempt
from shared.service.clock import Clock

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one evaluation compares, and how it is judged."""

    evaluation: Evaluation
    champion: Champion | None
    gates: Sequence[Gate]
    generation: Generation

    def about(self) -> Json:
        """The head of the report."""
        one, champion = self.evaluation, self.champion
        return {
            "evaluation_id": one.id,
            "model": one.model,
            "run_id": one.run_id,
            "adapter_digest": one.adapter_digest,
            "base_digest": one.base_digest,
            "dataset_digest": one.dataset_digest,
            "champion": champion.model_dump(mode="json", exclude={"model", "sequence"}) if champion else None,
            "generation": self.generation.model_dump(mode="json"),
            "gates": [gate.model_dump(mode="json") for gate in self.gates],
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the evaluation found."""

    verdict: Literal["pass", "fail", "insufficient"]
    verdicts: Sequence[Verdict]
    scores: Sequence[Score]
    document: Json
    differences: Sequence[Difference] = ()
    sheets: Mapping[Split, AnswerSheet] = field(default_factory=dict)


class Evaluator:
    def __init__(self, objects: ObjectStore, settings: Settings, clock: Clock) -> None:
        self._objects = objects
        self._settings = settings
        self._clock = clock

    async def run(self, attempt: Attempt, evaluation_id: str) -> None:
        """Evaluate and announce. An artifact that cannot be evaluated fails; what we lack ourselves is tried again."""
        async with attempt.work() as work:
            plan = await self._start(work, evaluation_id)
        if plan is None:
            return
        try:
            outcome = await self._evaluate(attempt, plan)
        except (Invalid, NotFound) as error:
            outcome = unmeasured(plan.about(), "fail", str(error))
        await self._settle(attempt, plan.evaluation, plan.champion, outcome)

    async def failed(self, attempt: Attempt, reason: str, evaluation_id: str) -> None:
        """There will be no further try: say so, so that nobody waits for a verdict."""
        async with attempt.work() as work:
            one = await Store(work.session).evaluation(evaluation_id)
            champion = await Store(work.session).champion(one.model) if one else None
        if one is None or one.state in ENDED:
            return
        about = {"evaluation_id": one.id, "model": one.model, "adapter_digest": one.adapter_digest}
        await self._settle(attempt, one, champion, unmeasured(about, "insufficient", reason), state="failed")

    async def _start(self, work: UnitOfWork, evaluation_id: str) -> Plan | None:
        """None when there is nothing to do: it ended, or the champion it was meant for has left."""
        store = Store(work.session)
        one = await store.evaluation(evaluation_id)
        if one is None or one.state in ENDED:
            return None
        declared, champion = await store.declared(one.model), await store.champion(one.model)
        if declared is None:
            raise RetryLater(
                "The model's policy has not arrived yet.", "Declare it: driftwheel apply POLICY.yaml"
            )
        if await self._superseded(work, one, champion):
            return None
        one.state, one.started_at = "running", one.started_at or self._clock.now()
        return Plan(one, champion, declared.parsed_gates(), declared.parsed_generation())

    async def _superseded(self, work: UnitOfWork, one: Evaluation, champion: Champion | None) -> bool:
        """If the champion moved, evaluate against the new one instead: old evidence must not promote anybody."""
        if one.champion_version == (champion.version if champion else None):
            return False
        one.state, one.finished_at, one.reason = "superseded", self._clock.now(), "the champion moved"
        again = one.model_dump(
            include={"model", "run_id", "adapter_digest", "base_digest", "dataset_digest", "drift_id"}
        )
        await queue(work, Evaluation(id="", created_at=self._clock.now(), **again), champion)
        return True

    async def _evaluate(self, attempt: Attempt, plan: Plan) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="driftwheel-evaluate-") as folder:
            answers = await self._answers(attempt, plan, Path(folder))
        return await asyncio.to_thread(self._judge, plan, answers)

    def _judge(self, plan: Plan, answers: Mapping[Place, Answers]) -> Outcome:
        measured = report.measured(answers)
        champion, least = plan.champion is not None, self._settings.min_rows
        golden = report.golden(answers, plan.generation.max_tokens)
        verdicts = [gates.judge(gate, measured, champion=champion, min_rows=least) for gate in plan.gates]
        verdicts += gates.telling(golden, measured)
        scores, verdict = gates.scores(measured), gates.overall(verdicts)
        differences, found = gates.differences(measured), sheets(answers)
        kept = {split: sheet.kept for split, sheet in found.items()}
        document = report.build(plan.about(), answers, scores, verdicts, verdict, golden, differences, kept)
        return Outcome(verdict, verdicts, scores, document, differences, found)

    async def _answers(self, attempt: Attempt, plan: Plan, folder: Path) -> Mapping[Place, Answers]:
        speakers, exams = await self._materials(plan, folder)
        subjects = Subjects(self._objects, self._settings, attempt, exams.values())
        found: dict[Place, Answers] = {}
        for place in gates.needed(plan.gates, champion=plan.champion is not None):
            exam = exams[place.split]
            found[place] = Answers(exam.rows, await subjects.answers(speakers[place.subject], exam))
        return found

    async def _materials(self, plan: Plan, folder: Path) -> tuple[dict[str, Speaker], dict[str, Exam]]:
        """Fetch and verify everything, and say who answers (by subject) and what is asked (by split)."""
        one, champion, limits = plan.evaluation, plan.champion, plan.generation
        base = base_digest(self._settings.base_model)
        dataset = await self._fetch("datasets", one.dataset_digest, folder)
        shots = tuple(rows.few_shot(dataset / "train.jsonl", limits.few_shot))
        speakers = {"base": Speaker(base), "few_shot": Speaker(base, shots=shots)}
        exams = {"test": _exam(dataset, one.dataset_digest, limits)}
        adapters = [("candidate", one.base_digest, one.adapter_digest)]
        if champion:
            adapters.append(("champion", champion.base_digest, champion.adapter_digest))
            earlier = await self._fetch("datasets", champion.dataset_digest, folder)
            exams["champion_test"] = _exam(earlier, champion.dataset_digest, limits)
        for name, wanted, digest in adapters:
            if wanted != base:
                raise Invalid(
                    f"The {name} was trained on another base model.", "Evaluate it where that base is."
                )
            speakers[name] = Speaker(base, digest, await self._fetch("adapters", digest, folder))
        return speakers, exams

    async def _fetch(self, bucket: str, digest: str, folder: Path) -> Path:
        path = folder / bucket / digest
        await fetch(self._objects, bucket, digest, path)
        return path

    async def _settle(
        self,
        attempt: Attempt,
        one: Evaluation,
        champion: Champion | None,
        outcome: Outcome,
        state: Literal["done", "failed"] = "done",
    ) -> None:
        """Publish the answers and the report, then end the evaluation and announce it in one transaction."""
        for sheet in outcome.sheets.values():
            await self._objects.create(sheet.kept.bucket, sheet.kept.key, sheet.data)
        data = report.encode(outcome.document)
        digest = hashlib.sha256(data).hexdigest()
        ref = ObjectRef(bucket=BUCKET, key=object_key(digest, "report.json"), sha256=digest)
        await self._objects.create(ref.bucket, ref.key, data)
        async with attempt.work() as work:
            store = Store(work.session)
            current = await store.evaluation(one.id)
            if current is None or current.state in ENDED:
                return
            if await self._superseded(work, current, await store.champion(one.model, lock=True)):
                return
            self._close(current, outcome, ref, state)
            work.emit(_event(current, outcome, ref))
        log.info("evaluation.done", evaluation=one.id, verdict=outcome.verdict)

    def _close(self, one: Evaluation, outcome: Outcome, ref: ObjectRef, state: str) -> None:
        one.state, one.finished_at, one.verdict = state, self._clock.now(), outcome.verdict
        one.reason = "; ".join(v.reason for v in outcome.verdicts if v.verdict != "pass")[:2_000]
        one.scores = [score.model_dump(mode="json") for score in outcome.scores]
        one.verdicts = [verdict.model_dump(mode="json") for verdict in outcome.verdicts]
        one.report = ref.model_dump(mode="json")
        one.differences = [difference.model_dump(mode="json") for difference in outcome.differences]
        one.answers = {split: sheet.kept.model_dump(mode="json") for split, sheet in outcome.sheets.items()}


def _exam(dataset: Path, digest: str, limits: Generation) -> Exam:
    found = rows.held_out(dataset / "test.jsonl", limits.max_rows)
    return Exam(digest, "test", limits.max_rows, limits.max_tokens, found)


def _event(one: Evaluation, outcome: Outcome, ref: ObjectRef) -> ModelEvaluated:
    return ModelEvaluated(
        model=one.model,
        evaluation_id=one.id,
        run_id=one.run_id,
        adapter_digest=one.adapter_digest,
        base_digest=one.base_digest,
        dataset_digest=one.dataset_digest,
        champion_version=one.champion_version,
        scores=tuple(outcome.scores),
        verdicts=tuple(outcome.verdicts),
        verdict=outcome.verdict,
        report=ref,
        drift_id=one.drift_id,
    )


def unmeasured(about: Json, verdict: Literal["fail", "insufficient"], reason: str) -> Outcome:
    """The outcome when there is nothing to measure: one verdict of a gate of its own, `evaluation`."""
    one = Verdict(gate="evaluation", verdict=verdict, reason=reason[:2_000])
    document = {
        **about,
        "verdict": verdict,
        "verdicts": [one.model_dump(mode="json")],
        "scores": [],
        "golden": [],
    }
    return Outcome(verdict, [one], [], document)
