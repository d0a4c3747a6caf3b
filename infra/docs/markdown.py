"""Small pieces of Markdown, and JSON Schema as tables of fields."""

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infra.local.state import ROOT
from shared.contracts.text import Digest, Identifier, ModelName, Name, ObjectKey

Schema = Mapping[str, Any]
WORDS = {
    TypeAdapter(kind).json_schema()["pattern"]: word
    for word, kind in {
        "model name": ModelName,
        "name": Name,
        "id": Identifier,
        "SHA-256": Digest,
        "key": ObjectKey,
    }.items()
}
"""What texts of one pattern are called; events say at their end what the patterns are."""
_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "minItems": "items ≥",
    "maxItems": "items ≤",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without its empty columns; a bar in a cell does not end it."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    used = [place for place in range(len(head)) if any(row[place] for row in cells)]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line[place] for place in used)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def first_paragraph(docstring: str | None) -> str:
    return (docstring or "").split("\n\n")[0].replace("\n", " ").strip()


def fields(schema: Schema, names: Iterable[str] | None = None) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and description of each property of an object."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        if names is None or name in names:
            default = "required" if name in required else code(_plain(field.get("default")))
            meaning = field.get("description") or _of_part(schema, field)
            yield code(name), kind(field), default, prose(meaning)


def _of_part(schema: Schema, field: Schema) -> str:
    """What the part is that a property holds."""
    name = str(field.get("$ref") or field.get("items", {}).get("$ref", "")).rpartition("/")[2]
    return first_paragraph(schema.get("$defs", {}).get(name, {}).get("description"))


def prose(text: str) -> str:
    """Text that names things in angle brackets is no HTML."""
    return text if "`" in text else html.escape(text, quote=False)


def kind(field: Schema) -> str:
    """The type of a property, with its bounds, such as `integer ≥ 1 ≤ 256`."""
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(kind(choice) for choice in choices if choice.get("type") != "null")
    if "const" in field:
        return code(_plain(field["const"]))
    if "enum" in field:
        return " ".join(code(value) for value in field["enum"])
    if field.get("type") == "array":
        inside = kind(field["items"]) if "items" in field else "any"
        return " ".join((f"list of {inside}", *_bounds(field)))
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), Mapping):
        return f"object of {kind(field['additionalProperties'])}"
    if field.get("format") in ("date-time", "password", "path"):
        return {"date-time": "time", "password": "secret", "path": "path"}[field["format"]]
    if pattern := field.get("pattern"):
        word = WORDS.get(pattern)
        return f"[{word}](topics.md#kinds-of-text)" if word else f"string like {code(pattern)}"
    return " ".join((str(field.get("type", "any")), *_bounds(field)))


def _bounds(field: Schema) -> Iterator[str]:
    for name, sign in _BOUNDS.items():
        if name in field:
            yield f"{sign} {_plain(field[name])}"


def _plain(value: Any) -> str:
    """A default as somebody would write it; the paths of this machine are nobody else's."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value)):
        return ""  # its parts have their own
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value) or "none"
    text = str(value).replace(f"{ROOT}/", "").replace(str(Path.home()), "~")
    return text or "empty"
