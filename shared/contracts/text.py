"""Constrained strings and numbers that every contract uses, so that bad text is refused at the edge."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from shared.contracts.document import Json as Json  # noqa: PLC0414 (said again, for all that has it from here)


def _storable(value: str) -> str:
    """Refuse what UTF-8 or PostgreSQL cannot hold: a lone surrogate passes JSON and `str`, and fails only later."""
    if "\x00" in value:
        raise ValueError("contains a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("contains a lone surrogate, which is not valid Unicode text") from error
    return value


Text = Annotated[str, AfterValidator(_storable)]
"""Any storable text. Bound its length where it is used."""

# Full matches: pydantic's `$` is the very end (no final newline passes), and means the same to readers of the schema.
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")]
"""A logical model, such as `support`."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A plug-in, gate, bucket or adapter name."""
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]
"""An id made by us or by a foreign producer: run, answer, idempotency key, event."""
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""
ObjectKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=-]*(/[A-Za-z0-9][A-Za-z0-9._=-]*){0,12}$")
]
"""A key in the object store; no segment may start with a dot, so it cannot climb."""


def _iso(value: Any) -> Any:
    """Refuse a number, also as text: pydantic would read it as seconds since 1970."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _ISO.match(value)):
        raise ValueError("write a time as ISO 8601 with an offset, such as 2026-01-31T12:00:00Z")
    return value


def computable(value: datetime) -> datetime:
    """In UTC. What lies beyond these years can be neither stored, nor shifted by a duration, nor shown everywhere."""
    try:
        found = value.astimezone(UTC)
    except OverflowError:
        found = None
    if found is None or not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise ValueError(f"a time lies in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return found


_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]")
_FIRST_YEAR, _LAST_YEAR = 1970, 9_990
Moment = Annotated[AwareDatetime, BeforeValidator(_iso), AfterValidator(computable)]
"""A point in time, from outside: with its offset, in years that every part can compute with; read as UTC."""
LONGEST_SECONDS = 31_622_400
"""A year of 366 days: what any declared duration may last."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
"""A declared duration."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A fraction between 0 and 1."""


class Contract(BaseModel):
    """Base of what arrives from outside and must be exact: an unknown key or a non-finite number is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    @classmethod
    def stored(cls, document: Any) -> Self:
        """Read what one of us wrote, perhaps a newer release beside this one: its new keys are passed over."""
        return cls.model_validate(document, extra="ignore")


class Message(BaseModel):
    """Base of what travels between services: unknown fields are ignored, so that a newer producer is understood."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


_PRINTABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def place(loc: Iterable[int | str], *, unknown_key: bool = False) -> str:
    """Where in a document an error is. A key that nobody knows, or that is no plain name, is input: not repeated."""
    parts = [str(part) if _PRINTABLE.fullmatch(str(part)) else "?" for part in loc]
    if unknown_key:
        parts[-1:] = ["?"]
    return ".".join(parts[:12]) or "the body"
