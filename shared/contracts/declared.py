"""What an event class declares of its fields by their types: which are ids, and which may be shown to who watches.

Free text is neither: it may be what a user wrote. So nothing that a person typed becomes a search key or is listed.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from shared.contracts.events import Event
from shared.contracts.text import Digest, Identifier, Json, ModelName, Name

MOST_REFERENCES = 32
_IDS = (Identifier, Digest)
_LONGEST_VALUE = 500


def references(event: Event) -> list[str] | None:
    """The ids a trace can be asked for, at most 32. None of an event that there is one of for each answer."""
    if event.per_answer:
        return None
    if getattr(event, "restated", False):
        return []  # what is only said again belongs to no story
    found = {text for name in _ids(type(event)) for text in _texts(getattr(event, name, None))}
    version = getattr(event, "model_version", None)
    if version is not None:
        found.add(f"{getattr(event, 'model', '')}:{version}")
    return sorted(found)[:MOST_REFERENCES]


def shown(event: Event) -> Json:
    """The numbers, choices, times, names and ids of an event, and the words that the platform itself chose."""
    values = {name: getattr(event, name, None) for name in _shown(type(event))}
    return {
        name: value[:_LONGEST_VALUE] if isinstance(value, str) else value
        for name, value in (
            (name, value.isoformat() if isinstance(value, datetime) else value)
            for name, value in values.items()
        )
        if value is not None and value != ""
    }


@cache
def _ids(event: type[Event]) -> Sequence[str]:
    return [name for name, hint in _hints(event) if any(part in _IDS for part in _parts(hint, inside=True))]


@cache
def _shown(event: type[Event]) -> Sequence[str]:
    return [
        name
        for name, hint in _hints(event)
        if name in event.told or all(_is_plain(part) for part in _parts(hint, inside=False))
    ]


def _hints(event: type[Event]) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(event, include_extras=True)
    return ((name, hints[name]) for name in event.model_fields)


def _parts(hint: Any, *, inside: bool) -> Iterator[Any]:
    """The types that a field may have, without None; `inside` a tuple too."""
    if get_origin(hint) in (Union, UnionType) or (inside and get_origin(hint) is tuple):
        for part in get_args(hint):
            if part not in (type(None), Ellipsis):
                yield from _parts(part, inside=inside)
    else:
        yield hint


def _is_plain(hint: Any) -> bool:
    if hint in (*_IDS, ModelName, Name) or get_origin(hint) is Literal:
        return True
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return base in (int, float, bool, datetime)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, str))
