"""The training loop: one optimiser step at a time, a function of recipe, corpus and state alone. Only workers import this.

On one machine with one number of threads, a run restored from any of its states ends with the same bytes.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from services.trainer.corpus import Corpus
from services.trainer.domain import TrainingFailed
from services.trainer.examples import batches, pack
from services.trainer.methods import METHODS, Trainable
from services.trainer.progress import Best, Health, learning_rate, total_steps
from shared.contracts.policy import Recipe
from shared.contracts.text import Json

MAX_GRADIENT_NORM = 1.0
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_STATE, _DOCUMENT = "state.safetensors", "state.json"


class Training:
    """A run in memory.

    Attributes:
        step: optimiser steps done.
        tokens: tokens learned from so far, shared prompts counted for every row.
        curve: one point per step: loss of the step, learning rate and, where it was measured, validation loss.
    """

    def __init__(self, trainable: Trainable, corpus: Corpus, recipe: Recipe, pack_tokens: int) -> None:
        self._trainable = trainable
        self._weights = trainable.tensors
        self._corpus = corpus
        self._recipe = recipe
        self._pack_tokens = pack_tokens
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=0.0, weight_decay=0.0, fused=True)
        self._per_epoch = total_steps(len(corpus.train), recipe.model_copy(update={"epochs": 1}))
        self._health = Health()
        self._kept: dict[str, Tensor] = {}
        self.total = total_steps(len(corpus.train), recipe)
        self.best = Best()
        self.step = 0
        self.tokens = 0
        self.curve: list[Json] = []

    @classmethod
    def start(cls, base: Path, corpus: Corpus, recipe: Recipe, dtype: str, pack_tokens: int) -> "Training":
        """Raises TrainingFailed if the recipe does not fit the base."""
        torch.manual_seed(recipe.seed)
        return cls(METHODS[recipe.method](base, recipe, dtype), corpus, recipe, pack_tokens)

    @property
    def done(self) -> bool:
        return self.step >= self.total or self.best.stale >= self._recipe.patience

    @property
    def stopped_early(self) -> bool:
        return self.done and self.step < self.total

    def advance(self) -> Json:
        """Do one optimiser step; returns its point of the curve. Raises TrainingFailed when the run is lost."""
        epoch, index = divmod(self.step, self._per_epoch)
        order = batches(len(self._corpus.train), self._recipe.batch_size, self._recipe.seed, epoch)[index]
        rows = [self._corpus.train[row] for row in order]
        rate = learning_rate(self.step, self.total, self._recipe)
        loss, norm = self._gradients(rows)
        self._health = self._health.after(self.step + 1, loss, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.step += 1
        self.tokens += sum(len(row.tokens) for row in rows)
        point: Json = {"step": self.step, "loss": loss, "learning_rate": rate}
        if self._corpus.validation and (
            self.step % self._recipe.evaluate_every == 0 or self.step == self.total
        ):
            point["validation_loss"] = self._validate()
        self.curve.append(point)
        return point

    def _gradients(self, rows: Any) -> tuple[float, float]:
        """Mean loss per learned token and the norm of its gradient, the same however the rows are packed."""
        self._trainable.train(True)
        self._optimizer.zero_grad(set_to_none=True)
        packs = list(pack(rows, self._pack_tokens))
        learned = sum(len(one.targets) for one in packs)
        loss = 0.0
        for one in packs:
            part = self._trainable.loss(one) / learned
            part.backward()
            loss += part.item()
        return loss, clip_grad_norm_(self._weights.values(), MAX_GRADIENT_NORM).item()

    def _validate(self) -> float | None:
        """Validation loss per learned token; keeps a copy of the weights if it is the best so far."""
        self._trainable.train(False)
        packs = list(pack(self._corpus.validation, self._pack_tokens))
        with torch.no_grad():
            total = sum(self._trainable.loss(one).item() for one in packs)
        loss = total / sum(len(one.targets) for one in packs)
        self.best = self.best.after(self.step, loss)
        if self.best.step == self.step:
            self._kept = {name: tensor.detach().clone() for name, tensor in self._weights.items()}
        return loss if math.isfinite(loss) else None

    def adapter(self) -> bytes:
        """The best weights as safetensors. Raises TrainingFailed if any of them is not finite."""
        weights = self._kept or {name: tensor.detach() for name, tensor in self._weights.items()}
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise TrainingFailed(
                f"diverged: {len(broken)} of {len(weights)} trained tensors hold values that are not finite.",
                "Lower recipe.learning_rate, then request the training again.",
            )
        data: bytes = save(
            {name: tensor.contiguous() for name, tensor in sorted(weights.items())}, {"format": "pt"}
        )
        return data

    def state(self) -> dict[str, bytes]:
        """Everything the rest of the run depends on, as files."""
        tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
        for name, weight in self._weights.items():
            tensors[f"weight/{name}"] = weight.detach()
            tensors |= {f"{key}/{name}": self._optimizer.state[weight][key] for key in _MOMENTS}
        tensors |= {f"best/{name}": tensor for name, tensor in self._kept.items()}
        document = {
            "step": self.step,
            "tokens": self.tokens,
            "best": self.best,
            "health": self._health,
            "curve": self.curve,
        }
        return {_STATE: save(tensors), _DOCUMENT: json.dumps(document, allow_nan=False).encode()}

    def restore(self, files: dict[str, bytes]) -> None:
        """Go on from a state of the same run. Raises ValueError, KeyError or SafetensorError before changing anything."""
        tensors, document = load(files[_STATE]), json.loads(files[_DOCUMENT])
        for name, weight in self._weights.items():
            if tensors[f"weight/{name}"].shape != weight.shape:
                raise ValueError(f"{name} has another shape in the checkpoint")
        best, health = Best(*document["best"]), Health(*document["health"])
        step, tokens, curve = int(document["step"]), int(document["tokens"]), list(document["curve"])
        moments = {key: {n: tensors[f"{key}/{n}"] for n in self._weights} for key in _MOMENTS}
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weight/{name}"])
                self._optimizer.state[weight] = {key: moments[key][name] for key in _MOMENTS}
        self._kept = {n: tensors[f"best/{n}"] for n in self._weights if f"best/{n}" in tensors}
        self.best, self._health, self.step, self.tokens, self.curve = best, health, step, tokens, curve
        torch.set_rng_state(tensors["rng"])


def fastest_dtype() -> str:
    """`bfloat16` where this machine multiplies it clearly faster than `float32` (AMX, AVX512_BF16), by trying both."""
    return "bfloat16" if _seconds(torch.bfloat16) * 1.2 < _seconds(torch.float32) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """The best of several products of a layer's size, so that a busy moment does not decide."""
    left, right = torch.ones(256, 1_024, dtype=dtype), torch.ones(1_024, 1_024, dtype=dtype)
    return min(_timed(lambda: left @ right) for _ in range(12))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
