"""Policy documents as people write them: refused with the path and the reason, never with what was sent."""

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from shared.contracts.errors import Invalid
from shared.contracts.policy import Gate, Policy
from shared.contracts.text import Json, place

_MOST = 5


def parse_policy(document: Json) -> Policy:
    """Raises Invalid naming up to 5 places and what is wrong there."""
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        said = [_said(one["loc"], one["type"], one["msg"]) for one in found[:_MOST]]
        more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise Invalid(
            "; ".join(said) + more, "Correct the policy; every field is described in its schema."
        ) from error


def _said(location: Sequence[int | str], kind: str, message: str) -> str:
    unknown = kind == "extra_forbidden"
    where = place(location, unknown_key=unknown) if location else "the policy"
    if unknown:
        return f"{where}: there is no such key here{_meant(location)}"
    return f"{where}: {message.removeprefix('Value error, ')}"


def _meant(location: Sequence[int | str]) -> str:
    """A key of ours that the unknown one resembles: helpful, and no echo."""
    section: type[BaseModel] = Policy
    for part in location[:-1]:
        kind: Any = section.model_fields[part].annotation if part in section.model_fields else Gate
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else Gate
    close = difflib.get_close_matches(str(location[-1])[:64], section.model_fields, n=1)
    return f"; is it {close[0]}?" if close else ""
