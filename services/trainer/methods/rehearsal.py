"""A method that takes no time: it pulls LoRA weights of the base's shapes towards seeded targets in a quadratic bowl.

For rehearsals and tests of everything around training: order, progress, checkpoints, resume, cancel and publishing are
those of a real run, the adapter loads into an engine, and only its answers are worthless.
"""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from services.trainer.domain import TrainingFailed
from services.trainer.examples import Pack
from shared.contracts.policy import Recipe

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHT = ".weight"


def build(base: Path, recipe: Recipe, _dtype: str) -> "Rehearsal":
    import torch

    tensors: dict[str, Tensor] = {}
    for name, (rows, columns) in shapes(base, recipe.targets).items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = (
            torch.randn(recipe.rank, columns) / columns**0.5
        ).requires_grad_()
        tensors[f"{prefix}.lora_B.weight"] = torch.zeros(rows, recipe.rank).requires_grad_()
    return Rehearsal(tensors)


def shapes(base: Path, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Module name -> [out, in] of every target, from the headers of the base's safetensors files."""
    found: dict[str, tuple[int, int]] = {}
    for file in sorted(base.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for key, entry in header.items():
            module = key.removesuffix(_WEIGHT)
            if key.endswith(_WEIGHT) and module.rpartition(".")[2] in targets:
                found[module] = (entry["shape"][0], entry["shape"][1])
    if not found:
        raise TrainingFailed(
            f"the base model has no modules {', '.join(targets)} to adapt.",
            "Set recipe.targets to its linear layers.",
        )
    return dict(sorted(found.items()))


class Rehearsal:
    def __init__(self, tensors: "dict[str, Tensor]") -> None:
        import torch

        self.tensors = tensors
        self._targets = [torch.randn_like(tensor) * 0.02 for tensor in tensors.values()]

    def train(self, on: bool) -> None:
        """There is no dropout."""

    def loss(self, pack: Pack) -> "Tensor":
        import torch

        distances = [
            (t - goal).square().mean() for t, goal in zip(self.tensors.values(), self._targets, strict=True)
        ]
        return torch.stack(distances).mean() * len(pack.targets)
