"""safetensors files read as they lie on disk, with every claim of their headers checked. No torch, no code, no pickle."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_HEADER_BYTES = 2**23
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class Malformed(ValueError):
    """The bytes are not what they should be; the message says where."""


class Tensor(NamedTuple):
    """One tensor; `values` are its numbers in order, as float32."""

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.float32]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, from the header alone. Raises Malformed."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = _header(file.read(min(size, _MAX_HEADER_BYTES)), size)
    return {name: _shape(entry) for name, entry in header.items()}


def tensors(data: bytes) -> Iterator[Tensor]:
    """The floating point tensors of a file that has no gap, no overlap and nothing after them. Raises Malformed."""
    size = int.from_bytes(data[:8], "little")
    header = _header(data[8 : 8 + size], size)
    body = memoryview(data)[8 + size :]
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1])):
        kind, shape, (start, stop) = str(entry.get("dtype")), _shape(entry), _offsets(entry)
        if kind not in _ITEM_BYTES:
            raise Malformed(f"tensor {name[:80]} is not of a floating point type")
        if start != end or stop - start != math.prod(shape) * _ITEM_BYTES[kind] or stop > len(body):
            raise Malformed(f"tensor {name[:80]} does not lie where its shape says")
        yield Tensor(name, shape, _float32(body[start:stop], kind))
        end = stop
    if end != len(body):
        raise Malformed("the weights have bytes that belong to no tensor")


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object in which every key counts once and every number is one. Raises Malformed."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) != len(found := dict(pairs)):
            raise Malformed("a key is given twice")
        return found

    def refuse(constant: str) -> None:
        raise Malformed(f"{constant} is not a number")

    try:
        value = json.loads(data, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed("not a proper JSON object") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _float32(data: memoryview, kind: str) -> NDArray[np.float32]:
    if kind == "BF16":  # NumPy has no bfloat16; it is the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f4" if kind == "F32" else "<f2").astype(np.float32)


def _header(data: bytes, size: int) -> dict[str, dict[str, Any]]:
    """Tensor name -> dtype, shape and offsets, of a header that should have `size` bytes."""
    if not 2 <= size <= _MAX_HEADER_BYTES or len(data) != size:
        raise Malformed("a safetensors header is cut off or too large")
    header = read_object(data)
    header.pop("__metadata__", None)
    if not all(isinstance(entry, dict) for entry in header.values()):
        raise Malformed("a safetensors header is damaged")
    return header


def _shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise Malformed("a tensor has no proper shape")
    return tuple(shape)


def _offsets(entry: Mapping[str, Any]) -> tuple[int, int]:
    match entry.get("data_offsets"):
        case [int(start), int(stop)]:
            return start, stop
    raise Malformed("a tensor has no proper offsets")
