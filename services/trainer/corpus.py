"""A dataset as training examples: fetched, verified, rendered with its own chat template, encoded."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.trainer.chat import Chat
from services.trainer.domain import TrainingFailed
from services.trainer.examples import Example, Turn, build
from shared.artifacts.objects import Manifest

VALIDATION_ROWS = 256
"""Most validation rows measured each time: enough for a stopping rule, and its cost stays bounded."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """`too_long` counts rows left out because they exceed the recipe's max_length or have nothing to learn."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    too_long: int
    template: str
    template_sha256: str

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(example.tokens) for example in self.train)


def load(folder: Path, manifest: Manifest, chat: Chat, max_length: int) -> Corpus:
    """
    Args:
        folder: holds the files of `manifest`, already verified.

    Raises:
        TrainingFailed: another chat template than the base's, unreadable rows, or nothing to train on.
    """
    expected = manifest.meta.get("chat_template_sha256")
    if expected != chat.template_sha256 or _template(folder) != chat.template_sha256:
        raise TrainingFailed(
            "the dataset was made with another chat template than the base model has.",
            "Build the dataset again with the base model that is installed now.",
        )
    train, dropped = _examples(folder / "train.jsonl", chat, max_length)
    validation, _ = _examples(folder / "validation.jsonl", chat, max_length, VALIDATION_ROWS)
    if not train:
        raise TrainingFailed(
            f"no training row is left: {dropped} exceed max_length {max_length} or have nothing to learn."
            if dropped
            else "the training split is empty.",
            "Raise recipe.max_length, or upload more rows.",
        )
    return Corpus(train, validation, dropped, chat.template, chat.template_sha256)


def _template(folder: Path) -> str:
    return hashlib.sha256((folder / "chat_template.jinja").read_bytes()).hexdigest()


def _examples(
    path: Path, chat: Chat, max_length: int, most: int | None = None
) -> tuple[tuple[Example, ...], int]:
    found: list[Example] = []
    dropped = 0
    for messages in _conversations(path):
        if most is not None and len(found) >= most:
            break
        example = build(chat, messages, max_length)
        if example is None:
            dropped += 1
        else:
            found.append(example)
    return tuple(found), dropped


def _conversations(path: Path) -> Iterator[list[Turn]]:
    """Raises TrainingFailed naming the line, never quoting it."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield [
                    {"role": str(t["role"]), "content": str(t["content"])}
                    for t in json.loads(line)["messages"]
                ]
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingFailed(
                    f"{path.name}, line {number} is no conversation.", "Build the dataset again."
                ) from error
