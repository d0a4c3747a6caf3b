"""The base model's tokenizer and chat template, read without transformers (0.1 s instead of 7 s to import)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.trainer.domain import TrainingFailed

Turn = dict[str, str]


class Chat:
    """Renders and encodes conversations exactly as the engine will see them.

    Args:
        folder: a base model saved by transformers (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`).

    Raises:
        TrainingFailed: the folder holds no usable tokenizer or chat template.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            file = folder / "chat_template.jinja"
            self.template: str = (
                file.read_text(encoding="utf-8") if file.is_file() else config["chat_template"]
            )
        except Exception as error:
            raise TrainingFailed(
                f"the base model has no usable tokenizer or chat template ({type(error).__name__})",
                "Point base_model at a folder saved by transformers whose model is a chat model.",
            ) from error
        self._special = {name: _token(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        self._render = _environment().from_string(self.template).render
        eos = self._special["eos_token"]
        self.eos_id: int | None = self._tokenizer.token_to_id(eos) if eos else None

    @property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, messages: Sequence[Turn], *, add_generation_prompt: bool = False) -> str:
        text: str = self._render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **self._special
        )
        return text

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _token(value: Any) -> str:
    """A special token is a string, or a dict in older folders."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _environment() -> Any:
    """The sandbox and the options transformers renders chat templates with, so that both give the same text."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TrainingFailed(
            f"the chat template refuses a conversation: {message}", "Mend or drop those rows."
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return environment
