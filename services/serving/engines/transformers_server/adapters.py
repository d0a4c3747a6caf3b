"""Adapters as tensors: LoRA pairs per linear layer, or a prefix of keys and values per attention layer.

Both are applied by hand instead of by peft, so that every row of a batch can have its own: a LoRA is one extra product
per layer, a prefix is where the row's cache begins. A unit test holds the results against peft.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Linear, Module

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# Features of peft that change the answer and are not implemented here (or in vLLM).
_UNKNOWN = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "auto_mapping",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "prefix_projection",
    "rank_pattern",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


class BadAdapter(ValueError):
    """This folder holds no adapter for this model; the message says why."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """One loaded adapter, ready to be computed with.

    Attributes:
        pairs: LoRA: per layer A^T [in, rank] and scale x B^T [rank, out], padded with zeros to the largest rank.
        prefix: prefix tuning: per attention layer keys and values [heads, tokens, size].
    """

    pairs: dict[Linear, tuple[Tensor, Tensor]] = field(default_factory=dict)
    prefix: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def prefix_tokens(self) -> int:
        return self.prefix[0][0].shape[1] if self.prefix else 0


def read_adapter(folder: Path, model: Any, max_rank: int) -> Adapter:
    """Load a peft folder for `model` (transformers). Raises BadAdapter."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise BadAdapter(f"no adapter in {folder}: {error}") from error
    if not isinstance(config, dict):
        raise BadAdapter("adapter_config.json is not an object")
    used = [name for name in _UNKNOWN if config.get(name)]
    if used or config.get("bias", "none") != "none":
        raise BadAdapter(f"this engine does not know {', '.join(used) or 'a trained bias'}")
    match config.get("peft_type"):
        case "LORA":
            return Adapter(pairs=_lora(config, tensors, model, max_rank))
        case "PREFIX_TUNING":
            return Adapter(prefix=_prefix(tensors, model))
        case other:
            raise BadAdapter(f"this engine serves LORA and PREFIX_TUNING, not {other}")


def _lora(
    config: dict[str, Any], tensors: dict[str, Tensor], model: Any, max_rank: int
) -> dict[Linear, tuple[Tensor, Tensor]]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 0 < rank <= max_rank:
        raise BadAdapter(f"rank {rank} is not between 1 and {max_rank}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BadAdapter("lora_alpha is not a finite number")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    modules: dict[str, Module] = dict(model.named_modules())
    names = {key.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B) for key in tensors}
    if len(tensors) != 2 * len(names):
        raise BadAdapter("tensors that are not pairs of lora_A and lora_B")
    return {
        _linear(modules, name): _pair(tensors, name, modules[name], rank, max_rank, scale)
        for name in sorted(names)
    }


def _linear(modules: dict[str, Module], name: str) -> Linear:
    module = modules.get(name)
    if not isinstance(module, Linear) or name == "lm_head":
        raise BadAdapter(f"the base model has no linear layer {name} to adapt")
    return module


def _pair(
    tensors: dict[str, Tensor], name: str, module: Any, rank: int, max_rank: int, scale: float
) -> tuple[Tensor, Tensor]:
    a, b = tensors.get(f"{_PREFIX}{name}{_A}"), tensors.get(f"{_PREFIX}{name}{_B}")
    expected = (rank, module.in_features), (module.out_features, rank)
    if a is None or b is None or (tuple(a.shape), tuple(b.shape)) != expected:
        raise BadAdapter(f"{name} has other shapes than rank {rank} on this base model")
    kind, padding = module.weight.dtype, max_rank - rank
    down = torch.nn.functional.pad(a.T.to(kind), (0, padding))
    up = torch.nn.functional.pad((scale * b.float()).T.to(kind), (0, 0, 0, padding))
    return down.contiguous(), up.contiguous()


def _prefix(tensors: dict[str, Tensor], model: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    """peft saves [tokens, layers x (key, value) x heads x size]."""
    config = model.config
    heads = config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    flat = tensors.get("prompt_embeddings")
    width = config.num_hidden_layers * 2 * heads * size
    if len(tensors) != 1 or flat is None or flat.dim() != 2 or flat.shape[1] != width or not flat.shape[0]:
        raise BadAdapter("the prefix has another shape than this base model's keys and values")
    split = (
        flat.to(model.dtype)
        .view(flat.shape[0], config.num_hidden_layers * 2, heads, size)
        .permute(1, 2, 0, 3)
    )
    return tuple(
        (split[2 * layer].contiguous(), split[2 * layer + 1].contiguous()) for layer in range(len(split) // 2)
    )
