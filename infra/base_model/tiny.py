"""A random 2-layer Llama with the default base model's tokenizer: for tests that need the shapes, not the language."""

import shutil
from pathlib import Path

import numpy as np

from infra.base_model.convert import generation_config, llama_config, write_json
from infra.base_model.obtain import obtain
from infra.base_model.tokenizer import FILES
from shared.artifacts.base_model import write_manifest

_HIDDEN, _INNER, _LAYERS, _HEADS, _KV_HEADS = 64, 128, 2, 2, 1


def make_tiny(folder: Path, seed: int = 0, tokenizer: Path | None = None) -> str:
    """Write the tiny model (float32, 3.2 M parameters, 13 MB) and return its base digest. Same seed, same bytes.

    `tokenizer` is a folder with the tokenizer's files; by default the base model is obtained for them, beside `folder`.
    """
    from safetensors.numpy import save_file

    if tokenizer is None:
        tokenizer = folder.parent / "base-model"
        obtain(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(tokenizer / name, folder / name)
    config = llama_config(
        hidden_size=_HIDDEN,
        intermediate_size=_INNER,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        max_position_embeddings=2048,
        vocab_size=49_152,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        dtype="float32",
    )
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config())
    save_file(_weights(seed), folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it readable by its owner alone
    (folder / "README.md").write_text(
        f"Random weights, seed {seed}: for tests, it knows no language.\n", encoding="utf-8"
    )
    return write_manifest(folder, {"model": "random", "seed": str(seed)})


def _weights(seed: int) -> dict[str, np.ndarray]:
    """Normal weights scaled so that every layer changes the answer: greedy text varies instead of echoing a token."""
    random = np.random.default_rng(seed)
    key_value = _HIDDEN * _KV_HEADS // _HEADS
    shapes = {
        "self_attn.q_proj": (_HIDDEN, _HIDDEN),
        "self_attn.k_proj": (key_value, _HIDDEN),
        "self_attn.v_proj": (key_value, _HIDDEN),
        "self_attn.o_proj": (_HIDDEN, _HIDDEN),
        "mlp.gate_proj": (_INNER, _HIDDEN),
        "mlp.up_proj": (_INNER, _HIDDEN),
        "mlp.down_proj": (_HIDDEN, _INNER),
    }

    def normal(shape: tuple[int, int], deviation: float) -> np.ndarray:
        return (random.standard_normal(shape) * deviation).astype(np.float32)

    tensors = {"model.embed_tokens.weight": normal((49_152, _HIDDEN), 0.3)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        for name, shape in shapes.items():
            tensors[f"{prefix}.{name}.weight"] = normal(shape, 1.5 * shape[1] ** -0.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(_HIDDEN, np.float32)
    tensors["model.norm.weight"] = np.ones(_HIDDEN, np.float32)
    return tensors
