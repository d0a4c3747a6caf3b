"""Sample payloads of a schema: as little as it allows, as much as it knows, and the limits of what is allowed.

Those of each committed revision are kept beside it, as what is still in topics, outboxes and dead letters.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.schemas import FOLDER

_TEXTS = {
    "[a-z0-9][a-z0-9-]{0,47}": ("s", "support-2"),
    "[a-z0-9][a-z0-9._-]{0,63}": ("a", "q_proj.v2"),
    "[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}": ("x", "support:7/run-1@a+b"),
    "[0-9a-f]{64}": ("0" * 64, "0123456789abcdef" * 4),
    "[A-Z]{3}": ("EUR", "USD"),
    "[A-Za-z0-9][A-Za-z0-9._=-]*(/[A-Za-z0-9][A-Za-z0-9._=-]*){0,12}": ("k", "a/b=c/d.jsonl"),
    "replies\\.[a-z0-9][a-z0-9._-]{0,99}": ("replies.a", "replies.crm.eu-1"),
}
"""Pattern (without its anchors) → a short and a long text that match."""
_RULES = {"Gate": [{"name": "floor", "at_least": 0.5}, {"name": "beats", "versus": "base", "margin": -0.1}]}
"""What a schema cannot say: exactly one of two fields. Keyed by the name of the definition."""


def samples(schema: dict[str, Any]) -> list[Any]:
    return [_value(schema, schema, most=False), _value(schema, schema, most=True)]


def committed() -> Iterator[tuple[str, str, Any]]:
    """Event type, revision and payload of everything kept."""
    for path in sorted(FOLDER.glob("*/*.samples.jsonl")):
        for line in path.read_text().splitlines():
            yield path.parent.name, path.name.split(".")[0], json.loads(line)


def write(path: Path, schema: dict[str, Any]) -> None:
    path.write_text("".join(f"{json.dumps(one, sort_keys=True)}\n" for one in samples(schema)))


def _value(schema: dict[str, Any], root: dict[str, Any], *, most: bool) -> Any:
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[1]
        return _RULES[name][int(most)] if name in _RULES else _value(root["$defs"][name], root, most=most)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][-1 if most else 0]
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return _value(alternatives[0 if most else -1], root, most=most)
    return _OF_TYPE[schema.get("type", "object")](schema, root, most)


def _object(schema: dict[str, Any], root: dict[str, Any], most: bool) -> Any:
    properties = schema.get("properties")
    if properties is None:
        names, item = schema.get("propertyNames", {}), schema.get("additionalProperties")
        for pattern, wanted in schema.get("patternProperties", {}).items():
            names, item = {"pattern": pattern}, wanted
        if not most or not isinstance(item, dict):
            return {}
        return {_value({"type": "string", **names}, root, most=True): _value(item, root, most=True)}
    wanted = properties if most else schema.get("required", ())
    found = {name: _value(properties[name], root, most=most) for name in wanted}
    if {"alpha", "rank"} <= found.keys():  # their ratio is bounded
        found["alpha"] = found["rank"]
    if {"windows", "windows_drifted"} <= found.keys():
        found["windows_drifted"] = found["windows"]
    if "steps" in found:
        found["steps"] = [100]
    if "idempotency_key" in found:  # exactly one of two
        found |= {"dataset_digest": "a" * 64, "files": []}
    return found


def _array(schema: dict[str, Any], root: dict[str, Any], most: bool) -> Any:
    number = schema.get("minItems", 0) or int(most)
    return [_value(schema["items"], root, most=most) for _ in range(number)] if "items" in schema else []


def _string(schema: dict[str, Any], _root: dict[str, Any], most: bool) -> Any:
    if pattern := schema.get("pattern"):
        bare = pattern.removeprefix("\\A").removeprefix("^").removesuffix("\\z").removesuffix("$")
        return _TEXTS[bare][int(most)]
    if schema.get("format") == "date-time":
        return "2026-11-01T08:00:00.123456+02:00" if most else "2026-11-01T00:00:00Z"
    return "ö" * min(schema.get("maxLength", 40), 2_000) if most else "x" * schema.get("minLength", 0)


def _number(schema: dict[str, Any], _root: dict[str, Any], most: bool) -> Any:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 1_000))
    if schema["type"] == "integer":
        return int(high if most else low)
    inside = (low + high) / 2
    return inside if "exclusiveMinimum" in schema or "exclusiveMaximum" in schema else (high if most else low)


_OF_TYPE: dict[str, Any] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda _schema, _root, most: most,
    "null": lambda _schema, _root, _most: None,
}
