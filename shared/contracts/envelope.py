"""CloudEvents 1.0 attributes of a message, in and out (Kafka binding; binary mode out, both modes in)."""

import base64
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.contracts.errors import Poison
from shared.contracts.strict_json import strict_json
from shared.contracts.text import computable

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
STRUCTURED = "application/cloudevents+json"
MAX_ATTRIBUTE_BYTES = 512
"""Three of them are a key of the inbox, and PostgreSQL takes 2,704 bytes in a row of an index."""
_SURELY_SHORT = MAX_ATTRIBUTE_BYTES // 4
"""Characters that take at most MAX_ATTRIBUTE_BYTES in UTF-8."""
_MAX_HEADER_BYTES = 8 * MAX_ATTRIBUTE_BYTES
_TEXTS = ("specversion", "id", "source", "type", "time", "subject")
_EXTENSIONS = ("correlationid", "causationid", "traceparent")
# CloudEvents allows no control characters; in a log or a terminal they would be commands.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Headers = Sequence[tuple[str, bytes | None]]


def new_id() -> str:
    """A UUIDv7: sorts by time, so an index on it stays compact. Source: RFC 9562, section 5.7."""
    millis = time.time_ns() // 1_000_000
    value = (millis << 80) | (0x7 << 76) | (secrets.randbits(12) << 64) | (0b10 << 62) | secrets.randbits(62)
    return str(uuid.UUID(int=value))


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who said what, when, and because of what."""

    id: str
    source: str
    type: str
    time: datetime
    correlationid: str
    causationid: str | None = None
    subject: str | None = None
    traceparent: str | None = None
    redriven: bool = False

    def headers(self) -> list[tuple[str, str]]:
        """Binary-mode Kafka headers."""
        pairs = {
            "ce_specversion": SPEC_VERSION,
            "ce_id": self.id,
            "ce_source": self.source,
            "ce_type": self.type,
            "ce_time": self.time.isoformat(),
            "ce_subject": self.subject,
            "ce_correlationid": self.correlationid,
            "ce_causationid": self.causationid,
            "ce_traceparent": self.traceparent,
            "traceparent": self.traceparent,
            "content-type": CONTENT_TYPE,
        }
        return [(name, value) for name, value in pairs.items() if value]

    def to_json(self) -> dict[str, str | None]:
        return {
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time.isoformat(),
            "correlationid": self.correlationid,
            "causationid": self.causationid,
            "subject": self.subject,
            "traceparent": self.traceparent,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Envelope":
        return cls(**{**data, "time": datetime.fromisoformat(data["time"])})


def request_envelope(
    service: str, correlationid: str | None = None, traceparent: str | None = None
) -> Envelope:
    """The cause of what an HTTP request or a timer starts: a fresh id that opens a new story."""
    event_id = new_id()
    return Envelope(
        id=event_id,
        source=f"/{service}/http",
        type="request",
        time=datetime.now(UTC),
        correlationid=correlationid or event_id,
        traceparent=traceparent,
    )


def repair_headers(headers: Headers) -> dict[str, str]:
    """Headers as text, whatever they are: a null or undecodable value becomes readable instead of an exception.

    `reply_to` is dropped: FastStream would publish the handler's answer to any topic it names. A long value is cut; no
    attribute may be that long.
    """
    return {
        name: (value or b"")[:_MAX_HEADER_BYTES].decode("utf-8", "backslashreplace")
        for name, value in headers or ()
        if name.lower() != "reply_to"
    }


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as a service reads it. `parsed` is what the body says, where reading the envelope has shown it."""

    envelope: Envelope
    foreign: bool
    data: bytes | None = None
    parsed: Any = None

    def payload(self) -> Any:
        """Raises Poison: the body is no strict JSON."""
        return self.parsed if self.data is None else strict_json(self.data)


def read(
    headers: Mapping[str, str], value: bytes | None, name: Callable[[], str], topic: str, at: datetime
) -> Incoming:
    """Read a CloudEvent in either mode, or plain JSON from a foreign producer.

    Args:
        name: gives the id of a message that names none.
        at: the record's timestamp.

    Raises:
        Poison: a tombstone, a broken structured event, a batch, an attribute that is no short text.
    """
    if value is None:
        raise Poison("The message has no body (a tombstone).", f"{topic} carries events, never deletions.")
    redriven = "ce_redrivenat" in headers
    if _is_structured(headers):
        event = strict_json(value)
        if not isinstance(event, dict):
            raise Poison("A structured CloudEvent is an object.", "See CloudEvents 1.0, JSON format.")
        envelope = _envelope(event, name, topic, at, redriven)
        if event.get("data_base64") is None:
            return Incoming(envelope, foreign=False, parsed=event.get("data"))
        return Incoming(envelope, foreign=False, data=_from_base64(event))
    attributes = {name[3:]: item for name, item in headers.items() if name.startswith("ce_")}
    return Incoming(_envelope(attributes, name, topic, at, redriven), foreign=not attributes, data=value)


def _is_structured(headers: Mapping[str, str]) -> bool:
    """Raises Poison for what says that it is a CloudEvent in a format that is not read here."""
    given = headers.get("content-type")
    if given == CONTENT_TYPE:
        return False
    if given is None:
        given = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    media_type, *parameters = (part.strip().lower() for part in given.split(";", 8))
    if not media_type.startswith("application/cloudevents"):
        return False
    if media_type.startswith("application/cloudevents-batch"):
        raise Poison("CloudEvents in batched mode are not read.", "Send one event in one message.")
    if media_type != STRUCTURED:
        raise Poison("This event format of CloudEvents is not read.", f"Send {STRUCTURED}.")
    charset = next((p.partition("=")[2].strip(' "') for p in parameters if p.startswith("charset")), "utf-8")
    if charset not in {"utf-8", "utf8", "us-ascii"}:
        raise Poison("The CloudEvent is not in UTF-8.", "Encode it as UTF-8.")
    return True


def _from_base64(event: Mapping[str, Any]) -> bytes:
    given = event["data_base64"]
    if event.get("data") is not None:
        raise Poison("The CloudEvent has both `data` and `data_base64`.", "Send one of them.")
    try:
        return base64.b64decode(given, validate=True)
    except (TypeError, ValueError) as error:
        raise Poison("`data_base64` is not base64.", "Mend the producer.") from error


def _envelope(
    given: Mapping[str, Any], name: Callable[[], str], topic: str, at: datetime, redriven: bool
) -> Envelope:
    texts = {key: _text(key, given.get(key)) for key in (*_TEXTS, *_EXTENSIONS)}
    if given and not texts["id"]:
        raise Poison("The CloudEvent has no id.", "Set ce_id.")
    if texts["specversion"] not in {None, SPEC_VERSION}:
        raise Poison("This version of CloudEvents is not read.", f"Send specversion {SPEC_VERSION}.")
    event_id = texts["id"] or name()
    return Envelope(
        id=event_id,
        source=texts["source"] or "/foreign",
        type=texts["type"] or f"{topic}.v1",
        time=_time(texts["time"]) if texts["time"] else at,
        correlationid=texts["correlationid"] or event_id,
        causationid=texts["causationid"],
        subject=texts["subject"],
        traceparent=texts["traceparent"],
        redriven=redriven,
    )


def _text(name: str, value: Any) -> str | None:
    """An attribute in its canonical text; null and empty mean that it is not set. Extensions may be typed in JSON."""
    if value is None or (type(value) is str and len(value) <= _SURELY_SHORT and value.isprintable()):
        return value or None
    if name in _EXTENSIONS and isinstance(value, bool | int):
        value = str(value).lower()
    if value == "":
        return None
    if not isinstance(value, str) or len(value.encode()) > MAX_ATTRIBUTE_BYTES or _CONTROL.search(value):
        raise Poison(f"CloudEvents attribute `{name}` is not a short text.", "Mend the producer.")
    return value


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text.upper())
        return computable(given if given.tzinfo else given.replace(tzinfo=UTC))
    except ValueError as error:
        raise Poison("CloudEvents attribute `time` is not RFC 3339.", "Mend the producer.") from error
