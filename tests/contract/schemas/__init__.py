"""Committed JSON Schemas of every event. `python -m tests.contract.schemas` writes them; it refuses a break."""

import json
from pathlib import Path
from typing import Any

from shared.contracts.events import EVENTS

FOLDER = Path(__file__).parent


def current() -> dict[str, dict[str, Any]]:
    return {event.ce_type(): event.model_json_schema() for event in EVENTS}


def committed() -> dict[str, dict[str, Any]]:
    return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Why messages of one schema are not read by the other, in either direction (FULL compatibility)."""
    return _breaks(old, new, old, new, "")


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    return root["$defs"][reference.rsplit("/", 1)[1]] if reference else schema


def _breaks(old: dict[str, Any], new: dict[str, Any], old_root: Any, new_root: Any, path: str) -> list[str]:
    old, new = _resolve(old, old_root), _resolve(new, new_root)
    found = [
        f"{path or '.'}: {keyword} changed from {old.get(keyword)} to {new.get(keyword)}"
        for keyword in ("type", "enum", "const", "pattern")
        if old.get(keyword) != new.get(keyword)
    ]
    before, after = old.get("properties", {}), new.get("properties", {})
    found += [
        f"{path}.{name}: required field added" for name in new.get("required", []) if name not in before
    ]
    found += [
        f"{path}.{name}: required field removed" for name in old.get("required", []) if name not in after
    ]
    found += [
        f"{path}.{name}: is required now"
        for name in new.get("required", [])
        if name in before and name not in old.get("required", [])
    ]
    for name in before.keys() & after.keys():
        found += _breaks(before[name], after[name], old_root, new_root, f"{path}.{name}")
    if "items" in old and "items" in new:
        found += _breaks(old["items"], new["items"], old_root, new_root, f"{path}[]")
    if len(old.get("anyOf", [])) != len(new.get("anyOf", [])):
        found.append(f"{path}: alternatives changed")
    for before_one, after_one in zip(old.get("anyOf", []), new.get("anyOf", []), strict=False):
        found += _breaks(before_one, after_one, old_root, new_root, path)
    return found
