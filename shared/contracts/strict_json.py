"""JSON from strangers: parsed only where it is unambiguous, storable, and cheap to parse."""

import json
from math import isinf
from typing import Any

from shared.contracts.errors import Poison

MAX_DEPTH = 64
MAX_VALUES = 3_000
"""Values in one body: what costs time is their number, not their bytes."""
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONGEST_NUMBER = b"0" * 310  # the range of a double has 309 digits before the point
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def strict_json(data: bytes) -> Any:
    """Parse JSON that is unambiguous and storable, in time that is linear in the body.

    Raises Poison for: not UTF-8, a BOM, NaN or Infinity, duplicate keys, lone surrogates, NUL; numbers, nesting or a
    number of values beyond reason.
    """
    _check_shape(data)
    try:
        text = data.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            _check_text(value)
    except UnicodeDecodeError as error:
        raise Poison(f"The body is not UTF-8 (byte {error.start}).", "Encode it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        where = (
            f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise Poison(f"The body is not valid JSON{where}.", "Check it with a JSON validator.") from error
    return value


def _check_shape(data: bytes) -> None:
    """Refuse what would be costly to parse, before it is parsed; brackets and commas inside strings do not count."""
    if _values(data) <= MAX_DEPTH and not _has_long_number(data):
        return
    # Without escapes each quote begins or ends a string: every second piece is outside of strings.
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if data.count(b'"') > 2 * MAX_VALUES:
        raise _too_many_values()
    data = b"".join(data.split(b'"')[::2])
    if _values(data) > MAX_VALUES:
        raise _too_many_values()
    if _depth(data.translate(None, _NO_BRACKETS)) > MAX_DEPTH:
        raise Poison(f"The body is nested deeper than {MAX_DEPTH} levels.", "Flatten it.")
    if _has_long_number(data):
        raise Poison("The body contains a number of too many digits.", "Send a shorter number.")


def _has_long_number(data: bytes) -> bool:
    return _LONGEST_NUMBER in data.translate(_AS_ZEROS)


def _too_many_values() -> Poison:
    return Poison(f"The body has more than {MAX_VALUES} values.", "Send less in one body.")


def _values(data: bytes) -> int:
    """At least as many as there are, and an upper bound of the nesting."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _depth(brackets: bytes) -> int:
    depth = deepest = 0
    for byte in brackets:
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(name: str) -> Any:
    raise Poison(f"The body contains {name}, which is not JSON.", "Send null or a finite number.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise Poison("The body repeats a key.", "Give each key once.")
    return seen


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise Poison("The body contains a number beyond the range of a double.", "Send a smaller number.")
    return value


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        if not storable(value):
            raise Poison(
                "The body contains a NUL or a lone surrogate.", "Send valid Unicode text without NUL."
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def storable(text: str) -> bool:
    """Whether UTF-8 and PostgreSQL can hold it: no NUL, no lone surrogate."""
    try:
        return b"\x00" not in text.encode()
    except UnicodeEncodeError:
        return False


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique, parse_float=_finite)
