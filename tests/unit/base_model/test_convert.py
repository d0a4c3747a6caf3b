"""GGUF's conventions undone: names, interleaved rotary rows, bfloat16, and a tokenizer that reads digit by digit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base_model.convert import rename, to_bfloat16, unpermute
from infra.base_model.obtain import obtain
from infra.base_model.tiny import make_tiny
from shared.artifacts.base_model import verify


@pytest.mark.parametrize(
    ("gguf", "name"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.29.attn_output.weight", "model.layers.29.self_attn.o_proj.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ("blk.7.ffn_norm.weight", "model.layers.7.post_attention_layernorm.weight"),
    ],
)
def test_names_follow_transformers(gguf: str, name: str) -> None:
    assert rename(gguf) == name


def test_an_unknown_tensor_stops_the_conversion() -> None:
    with pytest.raises(KeyError):
        rename("blk.0.attn_sinks.weight")


def test_rotary_rows_return_to_their_halves() -> None:
    """GGUF holds each head's rows as pairs (first half, second half)."""
    pairs = np.array([[0], [4], [1], [5], [2], [6], [3], [7]] * 2) + np.repeat([[0], [8]], 8, 0)
    assert unpermute(pairs, 2).ravel().tolist() == list(range(16))


@given(st.lists(st.floats(width=32, allow_nan=False, min_value=-(2.0**127), max_value=2.0**127), min_size=1))
def test_bfloat16_is_the_nearest_even(values: list[float]) -> None:
    exact = np.array(values, np.float32)
    bits = to_bfloat16(exact)
    rounded = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    down = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)
    up = ((exact.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32).astype(np.float64)
    error, best = np.abs(rounded - exact), np.minimum(np.abs(down - exact), np.abs(up - exact))
    assert (error == best).all()
    tie = np.abs(down - exact) == np.abs(up - exact)
    assert (bits[tie] % 2 == 0).all()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    obtain(folder)
    return folder


def test_the_default_base_model_is_what_its_manifest_says(base: Path) -> None:
    assert verify(base) == "489065d3c3828d9d0c2bfc8b415103d521546d9b66a630f5b8128556f5a6ecb6"


def test_the_tokenizer_reads_digits_one_by_one_and_gives_text_back(base: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    assert tokenizer.encode("In 2023").tokens == ["In", "Ġ", "2", "0", "2", "3"]
    text = "Löwe 42, naïve 日本\n\ttab <|im_end|>"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert ids[-1] == 2, "the end of a turn is one token"


def test_the_tiny_model_is_the_same_for_the_same_seed(base: Path, tmp_path: Path) -> None:
    digests = [make_tiny(tmp_path / str(i), seed, tokenizer=base) for i, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]
    assert verify(tmp_path / "0") == digests[0]
    assert (tmp_path / "0" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
