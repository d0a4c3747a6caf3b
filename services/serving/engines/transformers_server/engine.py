"""The engine without HTTP: names of models, prompts to rows, rows to answers."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from services.serving.engines.transformers_server.adapters import Adapter, BadAdapter
from services.serving.engines.transformers_server.answers import Answer
from services.serving.engines.transformers_server.model import Model
from services.serving.engines.transformers_server.scheduler import Row, Scheduler
from services.serving.engines.transformers_server.schemas import ChatRequest, Completing, CompletionRequest


class UnknownModel(Exception):
    """No base model and no adapter has this name."""


class BadRequest(Exception):
    """The request cannot be computed; the message says why."""


class Engine:
    """The base model, the adapters loaded over it, and the scheduler that runs both."""

    def __init__(
        self,
        folder: Path,
        *,
        served_name: str = "base",
        dtype: str = "auto",
        max_lora_rank: int = 16,
        max_adapters: int = 32,
        max_model_len: int = 2_048,
        max_num_seqs: int = 32,
        max_queued: int = 256,
    ) -> None:
        from transformers import AutoTokenizer

        self.served_name = served_name
        self.folder = folder
        self.created = int(time.time())
        self._max_adapters = max_adapters
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = Model(folder, dtype, max_lora_rank)
        self.max_model_len = min(max_model_len, self._model.max_positions)
        self._adapters: dict[str, tuple[Path, Adapter]] = {}
        self.scheduler = Scheduler(self._model, max_num_seqs, max_queued)
        self._ends = self._model.end_tokens

    @property
    def dtype(self) -> str:
        return self._model.dtype

    def adapters(self) -> dict[str, Path]:
        return {name: folder for name, (folder, _) in self._adapters.items()}

    async def load(self, name: str, folder: Path) -> None:
        """Raises BadAdapter; also for a name in use, because answers under a name must not change."""
        if name == self.served_name or name in self._adapters:
            raise BadAdapter(f"{name} has already been loaded")
        if len(self._adapters) >= self._max_adapters:
            raise BadAdapter(
                f"{self._max_adapters} adapters are loaded, the most this engine was started for"
            )
        adapter = await self.scheduler.read(folder)
        if name in self._adapters:
            raise BadAdapter(f"{name} has already been loaded")
        self._adapters[name] = (folder, adapter)

    def unload(self, name: str) -> None:
        """Answers that are being written keep their weights. Raises UnknownModel."""
        if self._adapters.pop(name, None) is None:
            raise UnknownModel(name)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def encode(self, request: ChatRequest | CompletionRequest) -> list[int]:
        """Token ids of the prompt. Raises BadRequest."""
        if isinstance(request, ChatRequest):
            try:
                text = self._tokenizer.apply_chat_template(
                    [message.plain() for message in request.messages],
                    add_generation_prompt=True,
                    tokenize=False,
                )
            except Exception as error:  # the template is the model's own code and raises what it likes
                raise BadRequest("the model's chat template refuses these messages") from error
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        if isinstance(request.prompt, str):
            return list(self._tokenizer.encode(request.prompt))
        if max(request.prompt) >= len(self._tokenizer):
            raise BadRequest("prompt holds a token id beyond the vocabulary")
        return request.prompt

    def submit(self, request: Completing, prompt: list[int]) -> Answer:
        """Start an answer. Raises UnknownModel, BadRequest, QueueFull."""
        if request.model == self.served_name:
            adapter = None
        elif request.model in self._adapters:
            adapter = self._adapters[request.model][1]
        else:
            raise UnknownModel(request.model)
        limit = request.limit or self.max_model_len - len(prompt)
        if not prompt or limit < 1 or len(prompt) + limit > self.max_model_len:
            raise BadRequest(
                f"This model's maximum context length is {self.max_model_len} tokens: {len(prompt)} in the prompt and"
                f" {max(limit, 0)} in the answer do not fit."
            )
        ends = frozenset[int]() if request.ignore_eos else self._ends
        answer = Answer(request.n or 1, self.decode, request.stops, ends)
        answer.rows = [
            Row(
                prompt=prompt,
                adapter=adapter,
                max_tokens=limit,
                temperature=1.0 if request.temperature is None else request.temperature,
                top_p=request.top_p or 1.0,
                generator=_generator(request.seed, index),
                ends=ends,
                deliver=answer.receiver(index),
            )
            for index in range(request.n or 1)
        ]
        self.scheduler.submit(answer.rows)
        return answer


def _generator(seed: int | None, index: int) -> torch.Generator:
    """Each of the n answers of one request draws its own numbers, the same ones for the same seed."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed((seed + index) % 2**63)
    return generator
