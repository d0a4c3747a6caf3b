"""Gets the answers of every subject: from the store if they were generated before, else from the model, batch by batch."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from services.evaluator import outputs, rows
from services.evaluator.outputs import Output
from services.evaluator.rows import Row
from services.evaluator.settings import Settings
from shared.artifacts.objects import ObjectStore
from shared.contracts.text import Json
from shared.jobs.attempts import Attempt

if TYPE_CHECKING:
    from services.evaluator.generate import Encoded, LanguageModel

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Speaker:
    """Weights and examples that answer: a base, with an adapter or with few-shot rows or with neither."""

    base_digest: str
    adapter_digest: str | None = None
    adapter: Path | None = None
    shots: tuple[Row, ...] = ()

    def identity(self) -> Json:
        shots = rows.digest(self.shots) if self.shots else None
        return {"base": self.base_digest, "adapter": self.adapter_digest, "few_shot": shots}


@dataclass(frozen=True, slots=True)
class Exam:
    """The questions: chosen rows of one split of a dataset, and how they are answered."""

    dataset_digest: str
    split: str
    max_rows: int
    max_tokens: int
    rows: Sequence[Row] = field(repr=False)

    def identity(self) -> Json:
        return {
            "dataset": self.dataset_digest,
            "split": self.split,
            "max_rows": self.max_rows,
            "max_tokens": self.max_tokens,
            "decoding": "greedy",
        }


class Subjects:
    """The subjects of one evaluation. The model is loaded when the first answer is missing, and not before.

    Args:
        exams: every exam of the evaluation: answers kept for one of them serve the others where rows are the same.
    """

    def __init__(
        self, objects: ObjectStore, settings: Settings, attempt: Attempt, exams: Collection[Exam]
    ) -> None:
        self._objects = objects
        self._settings = settings
        self._attempt = attempt
        self._exams = exams
        self._model: LanguageModel | None = None
        self._adapters: dict[Path, str] = {}
        self._known: dict[Speaker, dict[str, Output]] = {}

    async def answers(self, speaker: Speaker, exam: Exam) -> dict[str, Output]:
        """One output per row of the exam, by row key. Rows that two splits share are answered once.

        Raises:
            Invalid: the adapter does not fit, or its answers are not finite.
            Superseded, Cancelled: between two batches.
        """
        known = await self._remembered(speaker)
        missing = [row for row in exam.rows if row.key not in known]
        if missing:
            known |= await self._generate(speaker, exam.max_tokens, missing)
            await outputs.save(self._objects, self._key(speaker, exam), (known[row.key] for row in exam.rows))
        log.info("subject.answered", rows=len(exam.rows), generated=len(missing), **speaker.identity())
        return {row.key: known[row.key] for row in exam.rows}

    def _key(self, speaker: Speaker, exam: Exam) -> str:
        return outputs.cache_key({**speaker.identity(), **exam.identity(), "dtype": self._settings.dtype})

    async def _remembered(self, speaker: Speaker) -> dict[str, Output]:
        """All that is known of a speaker, whichever exam it was asked in."""
        if speaker not in self._known:
            found = self._known[speaker] = {}
            for exam in self._exams:
                found |= await outputs.load(self._objects, self._key(speaker, exam))
        return self._known[speaker]

    async def _generate(self, speaker: Speaker, max_tokens: int, missing: Sequence[Row]) -> dict[str, Output]:
        model, adapter = await asyncio.to_thread(self._prepare, speaker)
        encoded = await asyncio.to_thread(_encode, model, missing, speaker.shots, max_tokens)
        prefix = await asyncio.to_thread(model.prefix, adapter, encoded)
        lengths = [len(one.prompt) + max(max_tokens, len(one.answer)) for one in encoded]
        found: dict[str, Output] = {}
        for batch in outputs.plan(lengths, self._settings.batch_tokens, self._settings.batch_rows):
            await self._attempt.check()
            answered = await asyncio.to_thread(
                model.answer, adapter, [encoded[i] for i in batch], prefix, max_tokens
            )
            found |= {output.row: output for output in answered}
        return found

    def _prepare(self, speaker: Speaker) -> "tuple[LanguageModel, str | None]":
        from services.evaluator.generate import LanguageModel

        if self._model is None:
            self._model = LanguageModel(
                self._settings.base_model, self._settings.dtype, self._settings.threads
            )
        if speaker.adapter is None:
            return self._model, None
        if speaker.adapter not in self._adapters:
            name = f"adapter{len(self._adapters)}"
            self._model.add_adapter(name, speaker.adapter)
            self._adapters[speaker.adapter] = name
        return self._model, self._adapters[speaker.adapter]


def _encode(
    model: "LanguageModel", missing: Sequence[Row], shots: Sequence[Row], max_tokens: int
) -> "list[Encoded]":
    """Encode rows with as many of the shots as the context of the model leaves room for."""
    while True:
        encoded = [model.encode(row, rows.shown(shots)) for row in missing]
        longest = max(len(one.prompt) + max(max_tokens, len(one.answer)) for one in encoded)
        if longest <= model.context or not shots:
            return encoded
        shots = shots[: len(shots) // 2]
