"""The history of every event's JSON Schema: `<type>/<revision>.json`, written once and never changed again.

`python -m tests.contract.schemas` adds a revision where an event has changed, with sample payloads of it; it refuses
a break. One that cannot be avoided is a new version of the event, or says why: `--break "reason"`.
"""

import json
from pathlib import Path
from typing import Any

from shared.contracts.events import EVENTS

FOLDER = Path(__file__).parent
BREAK = "x-break"
_COMPARED = (
    "type", "enum", "const", "pattern", "format", "additionalProperties", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems",
    "propertyNames",
)  # fmt: skip
"""Whoever tightens one of these refuses old messages; whoever loosens one is refused by old readers."""
_WORDS = {"title", "description", "default", "examples", "properties", "patternProperties", "required", "items", "prefixItems", "anyOf",
          "oneOf", "discriminator", "$ref", "$defs", BREAK}  # fmt: skip


def current() -> dict[str, dict[str, Any]]:
    return {event.ce_type(): event.model_json_schema() for event in EVENTS}


def history(name: str) -> list[dict[str, Any]]:
    """Every revision of one event type, oldest first."""
    return [json.loads(path.read_text()) for path in sorted((FOLDER / name).glob("[0-9]*.json"))]


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name[0] != "_")


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the mark of a revision that breaks on purpose."""
    return {key: item for key, item in schema.items() if key != BREAK}


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why messages of one schema are not read by the other, in either direction (FULL compatibility)."""
    return _breaks(old, new, old, new, "")


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    return root["$defs"][reference.rsplit("/", 1)[1]] if reference else schema


def _breaks(old: dict[str, Any], new: dict[str, Any], old_root: Any, new_root: Any, path: str) -> list[str]:
    old, new = _resolve(old, old_root), _resolve(new, new_root)
    unknown = (old.keys() | new.keys()) - set(_COMPARED) - _WORDS
    found = [f"{path or '.'}: `{keyword}` is not known to this check" for keyword in sorted(unknown)]
    found += [
        f"{path or '.'}: {keyword} changed from {old.get(keyword)} to {new.get(keyword)}"
        for keyword in _COMPARED
        if _same_pattern(old.get(keyword)) != _same_pattern(new.get(keyword))
    ]
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    found += [f"{path}.{name}: required field added" for name in sorted(required_after - before.keys())]
    found += [f"{path}.{name}: required field removed" for name in sorted(required_before - after.keys())]
    found += [
        f"{path}.{name}: is {'' if name in required_after else 'no longer '}required now"
        for name in sorted((required_before ^ required_after) & before.keys() & after.keys())
    ]
    for name in before.keys() & after.keys():
        found += _breaks(before[name], after[name], old_root, new_root, f"{path}.{name}")
    patterns, patterns_after = (list(one.get("patternProperties", {}).items()) for one in (old, new))
    if [_same_pattern(key) for key, _ in patterns] != [_same_pattern(key) for key, _ in patterns_after]:
        found.append(f"{path or '.'}: keys changed")
    for (_, one), (_, other) in zip(patterns, patterns_after, strict=False):
        found += _breaks(one, other, old_root, new_root, f"{path}.*")
    for keyword in ("items", "additionalProperties"):
        if isinstance(old.get(keyword), dict) and isinstance(new.get(keyword), dict):
            found += _breaks(old[keyword], new[keyword], old_root, new_root, f"{path}[]")
    for keyword in ("anyOf", "oneOf", "prefixItems"):
        if len(old.get(keyword, ())) != len(new.get(keyword, ())):
            found.append(f"{path or '.'}: alternatives changed")
        for one, other in zip(old.get(keyword, ()), new.get(keyword, ()), strict=False):
            found += _breaks(one, other, old_root, new_root, path)
    return found


def _same_pattern(value: Any) -> Any:
    """Two spellings of "the whole text" are the same pattern; schemas inside are compared on their own."""
    if isinstance(value, str):
        return value.replace("\\A", "^").replace("\\z", "$")
    return None if isinstance(value, dict) else value
