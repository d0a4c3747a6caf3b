"""Training methods: one file each. A method turns base and recipe into tensors to train and a loss over packed rows."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from services.trainer.examples import Pack
from services.trainer.methods import lora, rehearsal
from shared.contracts.policy import Recipe

if TYPE_CHECKING:
    from torch import Tensor


class Trainable(Protocol):
    """What the loop trains. The loop owns optimiser, order, checkpoints and stopping."""

    @property
    def tensors(self) -> "dict[str, Tensor]":
        """The trained tensors by their name in a PEFT adapter, float32, always in the same order."""
        ...

    def train(self, on: bool) -> None:
        """Dropout on or off."""
        ...

    def loss(self, pack: Pack) -> "Tensor":
        """Sum of the negative log-likelihoods of `pack.targets`, in nats: a scalar with a gradient."""
        ...


METHODS: dict[str, Callable[[Path, Recipe, str], Trainable]] = {
    "lora": lora.build,
    "rehearsal": rehearsal.build,
}
"""`build(base model folder, recipe, dtype)`. Building imports torch, so only the job process may do it.

Raises TrainingFailed if the recipe does not fit the base.
"""
