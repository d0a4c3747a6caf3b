"""CloudEvents 1.0 attributes of a message, in and out (Kafka binding; binary mode out, both modes in)."""

import json
import re
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.contracts.errors import Poison

MAX_DEPTH = 64
SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
STRUCTURED = "application/cloudevents+json"
_MAX_ATTRIBUTE = 1_024

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


def strict_json(data: bytes) -> Any:
    """Parse JSON that is unambiguous and storable.

    Raises Poison for: not UTF-8, a BOM, NaN or Infinity, duplicate keys, lone surrogates, NUL, numbers or nesting
    beyond reason.
    """

    def refuse_constant(name: str) -> Any:
        raise Poison(f"The body contains {name}, which is not JSON.", "Send null or a finite number.")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            raise Poison("The body repeats a key.", "Give each key once.")
        return seen

    def finite(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise Poison("The body contains a number beyond the range of a double.", "Send a smaller number.")
        return value

    if _depth(data) > MAX_DEPTH:
        raise Poison(f"The body is nested deeper than {MAX_DEPTH} levels.", "Flatten it.")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique, parse_float=finite)
    except UnicodeDecodeError as error:
        raise Poison(f"The body is not UTF-8 (byte {error.start}).", "Encode it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        where = (
            f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        )
        raise Poison(f"The body is not valid JSON{where}.", "Check it with a JSON validator.") from error
    if "\\u" in text:
        _check_text(value)
    return value


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _depth(data: bytes) -> int:
    """The nesting, without parsing; brackets inside strings do not count."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for byte in _STRING.sub(b"", data):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value or any(0xD800 <= ord(char) <= 0xDFFF for char in value):
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


def repair_headers(headers: Headers) -> dict[str, str]:
    """Headers as text, whatever they are: a null or undecodable value becomes readable instead of an exception.

    `reply_to` is dropped: FastStream would publish the handler's answer to any topic it names.
    """
    return {
        name: (value or b"").decode("utf-8", "backslashreplace")
        for name, value in headers or ()
        if name.lower() != "reply_to"
    }


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as a service reads it."""

    envelope: Envelope
    data: bytes
    foreign: bool


def read(headers: Mapping[str, str], value: bytes | None, place: str, topic: str, at: datetime) -> Incoming:
    """Read a CloudEvent in either mode, or plain JSON from a foreign producer (then the id is its place in Kafka).

    Args:
        place: `topic/partition/offset`, the id of a message that names none.
        at: the record's timestamp.

    Raises:
        Poison: a tombstone, a broken structured event, an attribute that is no text or too long.
    """
    if value is None:
        raise Poison("The message has no body (a tombstone).", f"{topic} carries events, never deletions.")
    content_type = headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type == STRUCTURED:
        event = strict_json(value)
        if not isinstance(event, dict) or "data" not in event:
            raise Poison(
                "A structured CloudEvent must be an object with `data`.", "See CloudEvents 1.0, JSON format."
            )
        attributes = {name: item for name, item in event.items() if name != "data"}
        return Incoming(
            _envelope(attributes, place, topic, at), json.dumps(event["data"]).encode(), foreign=False
        )
    attributes = {name[3:]: item for name, item in headers.items() if name.startswith("ce_")}
    return Incoming(_envelope(attributes, place, topic, at), value, foreign=not attributes)


def _envelope(attributes: Mapping[str, Any], place: str, topic: str, at: datetime) -> Envelope:
    for name, item in attributes.items():
        if not isinstance(item, str) or len(item) > _MAX_ATTRIBUTE or "\x00" in item:
            raise Poison(f"CloudEvents attribute `{name[:40]}` is not a short text.", "Mend the producer.")
    if attributes and "id" not in attributes:
        raise Poison("The CloudEvent has no id.", "Set ce_id.")
    event_id = attributes.get("id") or place
    try:
        sent = datetime.fromisoformat(attributes["time"]) if "time" in attributes else at
    except ValueError as error:
        raise Poison("CloudEvents attribute `time` is not RFC 3339.", "Mend the producer.") from error
    return Envelope(
        id=event_id,
        source=attributes.get("source") or "/foreign",
        type=attributes.get("type") or f"{topic}.v1",
        time=sent if sent.tzinfo else sent.replace(tzinfo=UTC),
        correlationid=attributes.get("correlationid") or event_id,
        causationid=attributes.get("causationid"),
        subject=attributes.get("subject"),
        traceparent=attributes.get("traceparent"),
        redriven="redrivenat" in attributes,
    )
