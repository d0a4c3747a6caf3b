"""Spans: an HTTP request, its outbox rows, their records in Kafka and what handlers make of them are one trace.

What comes late (a job, a message that waited in its topic, a redriven one) starts a trace of its own, with a link to
its cause. Names and attributes follow OpenTelemetry's semantic conventions for HTTP and for messaging.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, format_trace_id

from shared.contracts.envelope import Envelope

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig


LONG_WAIT = timedelta(seconds=60)
_QUIET = ("/health/", "/metrics")
_EXPORT_SECONDS = 5.0

tracer = trace.get_tracer("driftwheel")


class Delivery(Protocol):
    """A record of Kafka, as far as its span tells of it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def envelope(self) -> Envelope: ...
    @property
    def received_at(self) -> datetime: ...
    @property
    def recorded_at(self) -> datetime: ...


# FastAPI makes the spans of requests itself: one each, under the caller's `traceparent`. Probes and scrapes have none;
# nor have exceptions a record of their own, since their text may quote what a user wrote.
REQUESTS: "TelemetryConfig" = {
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: str(scope.get("path", "")).startswith(_QUIET),
}
exporting = False
"""Whether anyone gets the spans; the relay makes one per event only then."""


def configure(service: str, otlp_endpoint: str) -> None:
    """Make spans, and send them in the background if there is an endpoint; one that is away costs nobody any time."""
    provider = TracerProvider(resource=Resource.create({"service.name": f"driftwheel-{service}"}))
    if otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        global exporting  # noqa: PLW0603 (of this process, like the provider itself)
        exporting = True
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint, timeout=_EXPORT_SECONDS))
        )
    trace.set_tracer_provider(provider)


def flush(seconds: float = 2.0) -> None:
    """Send the spans that still wait, at the end of a process. Blocks for at most `seconds`."""
    provider = trace.get_tracer_provider()
    if exporting and isinstance(provider, TracerProvider):
        last = threading.Thread(target=provider.shutdown, daemon=True)
        last.start()
        last.join(seconds)


def current_traceparent() -> str | None:
    """The active span in W3C form."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


def current_trace_id() -> str | None:
    """32 hexadecimal digits, as a trace store shows them."""
    context = trace.get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str | int] | None = None,
    traceparent: str | None = None,
    *,
    late: bool = False,
) -> Iterator[Span]:
    """A span under the W3C context `traceparent`, or under the current one.

    Args:
        late: begin a new trace instead, linked to `traceparent`.
    """
    given = extract({"traceparent": traceparent}) if traceparent else None
    cause = trace.get_current_span(given).get_span_context() if given is not None else None
    with tracer.start_as_current_span(
        name,
        context=Context() if late else given,
        kind=kind,
        attributes=attributes,
        links=[Link(cause)] if late and cause is not None and cause.is_valid else None,
        record_exception=False,  # its text may quote what a user wrote
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            mark_failed(error)
            raise


def mark_failed(error: BaseException) -> None:
    """The current span did not go well."""
    current = trace.get_current_span()
    current.set_status(StatusCode.ERROR)
    current.set_attribute("error.type", type(error).__qualname__)


def announcing(topic: str, cause: Envelope | None) -> str | None:
    """The W3C context that a new event carries: the current span's.

    Without one (a timer, a queue in memory) its cause's; a trace of its own if that is long ago, or if nothing caused it.
    """
    origin = cause.traceparent if cause else None
    if current := current_traceparent():
        return current
    if cause and origin and datetime.now(UTC) - cause.time <= LONG_WAIT:
        return origin
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "create",
        "messaging.operation.name": "create",
        "messaging.destination.name": topic,
    }
    with span(f"create {topic}", SpanKind.PRODUCER, attributes, origin, late=True):
        return current_traceparent() or origin


@contextmanager
def processing(service: str, delivery: Delivery) -> Iterator[Span]:
    """Handling one message: part of its sender's trace, unless it waited long or died in between."""
    envelope = delivery.envelope
    attributes: dict[str, str | int] = {
        **_messaging(delivery.topic, "process", envelope.id, delivery.partition, delivery.offset),
        "messaging.consumer.group.name": f"{service}.{delivery.topic}",
        "messaging.message.conversation_id": envelope.correlationid,
    }
    late = envelope.redriven or delivery.received_at - delivery.recorded_at > LONG_WAIT
    with span(
        f"process {delivery.topic}", SpanKind.CONSUMER, attributes, envelope.traceparent, late=late
    ) as one:
        yield one


@contextmanager
def processing_many(service: str, deliveries: Sequence[Delivery]) -> Iterator[Span]:
    """Handling a batch: a trace of its own, linked to its senders'."""
    first = deliveries[0]
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": first.topic,
        "messaging.destination.partition.id": str(first.partition),
        "messaging.consumer.group.name": f"{service}.{first.topic}",
        "messaging.batch.message_count": len(deliveries),
    }
    with span(f"process {first.topic}", SpanKind.CONSUMER, attributes, late=True) as one:
        for delivery in deliveries if exporting else ():
            carrier = extract({"traceparent": delivery.envelope.traceparent or ""})
            one.add_link(trace.get_current_span(carrier).get_span_context())
        yield one


@contextmanager
def working(job: str, key: str, attempt: int, cause: Envelope | None) -> Iterator[Span]:
    """One attempt of a job: long work, so a trace of its own; the events it announces belong to that."""
    attributes: dict[str, str | int] = {
        "driftwheel.job.key": key,
        "driftwheel.job.attempt": attempt,
        "messaging.message.conversation_id": cause.correlationid if cause else key,
    }
    traceparent = cause.traceparent if cause else None
    with span(f"job {job}", SpanKind.CONSUMER, attributes, traceparent, late=True) as one:
        yield one


def sent(
    topic: str, partition: int, offset: int, headers: Sequence[tuple[str, bytes | None]], began: int
) -> None:
    """Note that a message reached Kafka; `began` is in nanoseconds since the epoch.

    The span stands beside the handlers' under the one that announced the event: the header still names that one, so
    the chain holds when nobody records spans here.
    """
    told = {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
    attributes = _messaging(topic, "send", told.get("ce_id", ""), partition, offset)
    parent = extract({"traceparent": told.get("traceparent", "")})
    tracer.start_span(
        f"send {topic}", context=parent, kind=SpanKind.PRODUCER, attributes=attributes, start_time=began
    ).end()


def _messaging(topic: str, operation: str, message_id: str, partition: int, offset: int) -> dict[str, Any]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
        "messaging.kafka.offset": offset,
        "messaging.message.id": message_id,
    }
