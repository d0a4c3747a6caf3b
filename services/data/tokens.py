"""Length of a conversation in tokens of the base model, chat template included, without torch."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from services.data.rows import Turn
from shared.contracts.errors import Invalid, NotFound

# Marks for training masks that plain Jinja does not know; they render to nothing.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
_PROBE = "x"


class Tokens:
    """Counts as `content tokens + what the template adds`, the latter measured once on rendered conversations.

    Exact when the template frames each message with special tokens, as ChatML does: those end every merge.
    """

    def __init__(self, base: Path) -> None:
        if not (base / "tokenizer.json").is_file():
            raise NotFound(
                f"no tokenizer in {base}", "Set the base model to a folder that holds tokenizer.json."
            )
        self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.template = _template(base)
        pair = [Turn("user", _PROBE), Turn("assistant", _PROBE)]
        two, four = self._added(pair), self._added(pair * 2)
        self._per_turn = (four - two) / 2
        self._fixed = two - 2 * self._per_turn
        self._fixed_system = self._added([Turn("system", _PROBE), *pair]) - 3 * self._per_turn
        self._bytes_bound = self._tokenizer.normalizer is None
        rendered = self.render(pair)
        special = [
            token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special
        ]
        self.control: Sequence[str] = tuple(token for token in special if token in rendered)
        """Special tokens the template frames messages with: in a message they would forge a turn."""

    def render(self, messages: Sequence[Turn]) -> str:
        """The conversation as text, as the model sees it. Raises Invalid if the template refuses it."""

        def refuse(message: str) -> NoReturn:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            template = environment.from_string(_GENERATION.sub("", self.template))
            return template.render(messages=turns, add_generation_prompt=False, bos_token="", eos_token="")
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise Invalid(
                "The base model's chat template cannot be rendered.", "Use an instruct model."
            ) from error

    def count(self, messages: Sequence[Turn]) -> int:
        fixed = self._fixed_system if messages[0].role == "system" else self._fixed
        return math.ceil(fixed + self._per_turn * len(messages)) + sum(
            self._length(turn.content) for turn in messages
        )

    def fits(self, messages: Sequence[Turn], limit: int) -> bool:
        """`count(messages) <= limit`; short rows are not tokenised, since no token covers less than a byte."""
        if self._bytes_bound:
            added = max(self._fixed, self._fixed_system) + (self._per_turn + 1) * len(messages)
            if added + sum(len(turn.content.encode()) for turn in messages) <= limit:
                return True
        return self.count(messages) <= limit

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def _added(self, messages: Sequence[Turn]) -> int:
        return self._length(self.render(messages)) - sum(self._length(turn.content) for turn in messages)


def _template(base: Path) -> str:
    """The chat template of a base model: its own file, or a field of tokenizer_config.json."""
    if (base / "chat_template.jinja").is_file():
        return (base / "chat_template.jinja").read_text(encoding="utf-8")
    path = base / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    template = config.get("chat_template")
    if not isinstance(template, str):
        raise Invalid(f"the base model in {base} has no chat template", "Use an instruct model.")
    return template
