"""Greedy answers and answer losses of one causal language model whose adapters are switched. Only workers import this.

One prefill serves both: the reference answer is scored on it, taken off the cache again, and generation goes on from
there. The tokens all prompts begin with (system prompt, few-shot examples) are computed once per subject.
"""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

from services.evaluator.outputs import Output
from services.evaluator.rows import Row, Turn
from shared.contracts.errors import Invalid

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_MIN_SHARED = 8
"""Prompts that share fewer leading tokens are computed whole."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens. `answer` ends with the end-of-turn token, as the trainer learns it."""

    row: Row
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The leading tokens every prompt has, already in the cache (batch of one)."""

    length: int
    cache: DynamicCache


class LanguageModel:
    """A base model in memory, with any number of LoRA-like adapters beside it.

    Args:
        folder: saved by transformers; weights in safetensors.
        dtype: `auto` (as stored), `bfloat16` or `float32`.
        threads: of torch, 0 leaves its default.
    """

    def __init__(self, folder: Path, dtype: str = "auto", threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        self._model: Any = model.eval()
        self._adapted: PeftModel | None = None
        self._ends = _ends(self._model, self._tokenizer)
        self.context: int = getattr(self._model.config, "max_position_embeddings", 2_048)
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self.chat_template: str = self._tokenizer.chat_template

    def add_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under `name`.

        Raises:
            Invalid: it does not fit the base, is not of an injected kind (LoRA, IA3…), or has a non-finite weight.
        """
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        if config.get("auto_mapping") or config.get("is_prompt_learning"):
            raise Invalid(
                "The adapter is of a kind that is not evaluated here.", "Train it with the method lora."
            )
        weights = load_file(folder / ADAPTER_FILES[1])
        if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
            raise Invalid(
                f"{len(broken)} weights of the adapter are not finite.", "Train again, at a lower rate."
            )
        try:
            if self._adapted is None:
                self._adapted = PeftModel.from_pretrained(self._model, folder, adapter_name=name).eval()
            else:
                self._adapted.load_adapter(str(folder), adapter_name=name)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise Invalid(
                f"The adapter does not fit the base ({type(error).__name__}).", "Train on this base."
            ) from error
        loaded = get_peft_model_state_dict(self._adapted, adapter_name=name, save_embedding_layers=False)
        if set(loaded) != set(weights):
            raise Invalid(
                "The adapter's weights are not those its configuration asks for.", "Train it again."
            )

    def encode(self, row: Row, shots: Sequence[Turn] = ()) -> Encoded:
        """Tokens of a row; `shots` are shown as earlier turns, after the system message if there is one."""
        turns = [turn._asdict() for turn in row.prompt]
        system = 1 if turns and turns[0]["role"] == "system" else 0
        turns[system:system] = [turn._asdict() for turn in shots]
        prompt = self._render(turns, add_generation_prompt=True)
        whole = self._render([*turns, {"role": "assistant", "content": row.answer}])
        if not whole.startswith(prompt):
            raise Invalid(
                "The chat template rewrites earlier turns.", "Choose a base whose template only appends."
            )
        answer = self._tokens(whole[len(prompt) :])
        end = next((index for index, token in enumerate(answer) if token in self._ends), len(answer) - 1)
        return Encoded(row, tuple(self._tokens(prompt)), tuple(answer[: end + 1]))

    def _render(self, turns: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[Any]:
        """The bare causal model with this adapter switched on; None is the base."""
        if self._adapted is not None and adapter is not None:
            self._adapted.set_adapter(adapter)
        bare = self._adapted.disable_adapter() if self._adapted and adapter is None else nullcontext()
        with bare, torch.inference_mode():
            yield self._model

    def prefix(self, adapter: str | None, encoded: Sequence[Encoded]) -> Prefix | None:
        """Compute what all prompts begin with; None if that is not worth it."""
        first, last = min(encoded, key=_prompt).prompt, max(encoded, key=_prompt).prompt
        limit = min(len(one.prompt) for one in encoded) - 1
        length = next((i for i in range(limit) if first[i] != last[i]), limit)
        if len(encoded) < 2 or length < _MIN_SHARED:
            return None
        with self._using(adapter) as model:
            cache = DynamicCache(config=model.config)
            model(input_ids=torch.tensor([first[:length]]), cache=cache, use_cache=True, logits_to_keep=1)
        return Prefix(length, cache)

    def answer(
        self, adapter: str | None, batch: Sequence[Encoded], prefix: Prefix | None, max_tokens: int
    ) -> list[Output]:
        """Answer one batch greedily and score its reference answers.

        Returns:
            One output per row, in order.

        Raises:
            Invalid: the model's logits are not finite.
        """
        skip = prefix.length if prefix else 0
        with self._using(adapter) as model:
            cache = copy.deepcopy(prefix.cache) if prefix else DynamicCache(config=model.config)
            if prefix:
                cache.batch_repeat_interleave(len(batch))
            tokens, mask = _pad([one.prompt[skip:] for one in batch], left=True, seen=skip)
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, skip:]
            first = self._step(model, cache, tokens, mask, positions)[:, -1]
            losses = self._score(model, cache, first, mask, [one.answer for one in batch])
            answers, margins = self._decode(model, cache, first, mask, max_tokens)
        if not all(math.isfinite(number) for number in (*losses, *margins)):
            raise Invalid(
                "The model's answers are not finite numbers.", "Train again, at a lower learning rate."
            )
        return [
            Output(
                row=one.row.key,
                answer=self._text(answer),
                finished=bool(answer and answer[-1] in self._ends),
                margin=margin,
                nll=loss,
                tokens=len(one.answer),
            )
            for one, answer, margin, loss in zip(batch, answers, margins, losses, strict=True)
        ]

    def _step(
        self, model: Any, cache: DynamicCache, tokens: Tensor, mask: Tensor, positions: Tensor, keep: int = 1
    ) -> Tensor:
        """Feed `tokens` (B, T) and return the last `keep` logits (B, keep, V) in float32."""
        out = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logits: Tensor = out.logits.float()
        return logits

    def _score(
        self, model: Any, cache: DynamicCache, first: Tensor, mask: Tensor, answers: Sequence[tuple[int, ...]]
    ) -> list[float]:
        """Negative log-likelihood of each reference answer, summed over its tokens, in nats. Leaves the cache as it was."""
        targets, known = _pad(answers, left=False)
        length = targets.shape[1]
        logits = first[:, None]
        if length > 1:
            positions = mask.sum(1, keepdim=True) + torch.arange(length - 1)
            seen = torch.cat([mask, known[:, :-1]], 1)
            rest = self._step(model, cache, targets[:, :-1], seen, positions, keep=length - 1)
            cache.crop(1 - length)
            logits = torch.cat([logits, rest], 1)
        picked = logits.gather(2, targets[..., None])[..., 0] - logits.logsumexp(2)
        return [float(value) for value in -(picked * known).sum(1)]

    def _decode(
        self, model: Any, cache: DynamicCache, logits: Tensor, mask: Tensor, max_tokens: int
    ) -> tuple[list[list[int]], list[float]]:
        """Greedy tokens per row, the ending one included, and the smallest lead of a chosen token over the next best."""
        rows = logits.shape[0]
        answers: list[list[int]] = [[] for _ in range(rows)]
        margins = [float("inf")] * rows
        open_rows = set(range(rows))
        position = mask.sum(1, keepdim=True)
        for step in range(max_tokens):
            best = logits.topk(2, dim=-1)
            tokens = best.indices[:, :1]
            leads = (best.values[:, 0] - best.values[:, 1]).tolist()
            for row, token in [(row, int(tokens[row])) for row in sorted(open_rows)]:
                answers[row].append(token)
                margins[row] = min(margins[row], leads[row])
                if token in self._ends:
                    open_rows.discard(row)
            if not open_rows or step == max_tokens - 1:
                break
            mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
            logits = self._step(model, cache, tokens, mask, position + step)[:, -1]
        return answers, margins

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.replace("\x00", "")


def _prompt(one: Encoded) -> tuple[int, ...]:
    return one.prompt


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a turn: of the generation configuration and of the tokenizer."""
    declared = model.generation_config.eos_token_id
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)


def _pad(rows: Sequence[Sequence[int]], *, left: bool, seen: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) and mask (B, seen + T); `seen` tokens before them are already in the cache."""
    width = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), seen + width, dtype=torch.long)
    mask[:, :seen] = 1
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[index, span] = torch.tensor(row)
        mask[index, seen + span.start : seen + span.stop] = 1
    return tokens, mask
