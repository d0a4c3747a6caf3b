"""A well-formed LoRA adapter for a small base, and the means to spoil it in one place."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import TensorSpec, serialize_file

from services.serving.admission import CONFIG, WEIGHTS, BaseSpec, admit

DIGEST = "b" * 64
RANK, HIDDEN, KEYS, LAYERS = 4, 8, 6, 2
TARGETS = ("q_proj", "k_proj")
BASE = BaseSpec(
    DIGEST,
    {
        f"model.layers.{layer}.{part}": shape
        for layer in range(LAYERS)
        for part, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (KEYS, HIDDEN),
            "mlp.up_proj": (16, HIDDEN),
        }.items()
    },
    "c" * 64,
)


def good_config() -> dict[str, Any]:
    """What peft 0.21 writes."""
    empty = ("alpha_pattern", "auto_mapping", "layer_replication", "layers_to_transform", "loftq_config")
    empty += ("modules_to_save", "rank_pattern", "target_parameters", "trainable_token_indices", "use_dora")
    return dict.fromkeys(empty) | {
        "base_model_name_or_path": "somewhere",
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "megatron_core": "megatron.core",
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "qalora_group_size": 16,
        "r": RANK,
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def key(module: str, side: str, layer: int = 0) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight"


def good_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {}
    for layer in range(LAYERS):
        for module, out in (("q_proj", HIDDEN), ("k_proj", KEYS)):
            shapes[key(module, "A", layer)] = (RANK, HIDDEN)
            shapes[key(module, "B", layer)] = (out, RANK)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@dataclass
class Made:
    """An adapter in a folder. `admit` asks as serving does, with the digests of the files as they are now, unless given."""

    folder: Path
    config: dict[str, Any] = field(default_factory=good_config)
    tensors: dict[str, np.ndarray] = field(default_factory=good_tensors)
    dtype: str = "float32"

    def write(self) -> "Made":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / CONFIG).write_text(json.dumps(self.config))
        stored = {name: self._stored(values) for name, values in self.tensors.items()}
        specs = {
            name: TensorSpec(
                dtype=self.dtype, shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes
            )
            for name, bits in stored.items()
        }
        serialize_file(specs, self.folder / WEIGHTS, {"format": "pt"})
        return self

    def manifest(self) -> dict[str, str]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return {path.name: _sha256(path) for path in paths}

    def admit(self, **changed: Any) -> None:
        asked = {"base": BASE, "base_digest": DIGEST, "targets": TARGETS, "max_rank": 16} | changed
        admit(self.folder, **({"manifest": self.manifest()} | asked))

    def _stored(self, values: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return np.ascontiguousarray((values.view(np.uint32) >> 16).astype(np.uint16))
        return np.ascontiguousarray(values.astype(self.dtype))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
