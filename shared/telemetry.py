"""Logs as JSON lines, metrics for Prometheus, trace context in W3C form."""

import logging
import sys
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import Counter, Gauge, Histogram

HANDLED = Counter(
    "driftwheel_events_handled_total", "Events by what became of them.", ["service", "topic", "outcome"]
)
HANDLING_SECONDS = Histogram(
    "driftwheel_event_handling_seconds", "Time from first try to commit.", ["service", "topic"]
)
OUTBOX_PENDING = Gauge("driftwheel_outbox_pending", "Events committed and not yet in Kafka.", ["service"])
OUTBOX_AGE_SECONDS = Gauge(
    "driftwheel_outbox_age_seconds", "Age of the oldest event not yet in Kafka.", ["service"]
)
OUTBOX_SENT = Counter("driftwheel_outbox_sent_total", "Events acknowledged by Kafka.", ["service"])
CONSUMER_STOPPED = Gauge(
    "driftwheel_consumer_stopped", "1 when too many messages died in a row.", ["service"]
)
CONSUMER_LAG_SECONDS = Gauge(
    "driftwheel_consumer_lag_seconds", "Age of the oldest unread record.", ["service", "topic"]
)

tracer = trace.get_tracer("driftwheel")


def configure(service: str, level: str, otlp_endpoint: str = "") -> None:
    """Set up logs and spans of this process. Call once, from an entry point."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=max(getattr(logging, level), logging.WARNING), stream=sys.stderr, force=True)
    provider = TracerProvider(resource=Resource.create({"service.name": f"driftwheel-{service}"}))
    if otlp_endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_endpoint)))
    trace.set_tracer_provider(provider)


def current_traceparent() -> str | None:
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


def span(name: str, traceparent: str | None = None, **attributes: str) -> Any:
    """A span under the given W3C context, or under the current one."""
    context = extract({"traceparent": traceparent}) if traceparent else None
    return tracer.start_as_current_span(name, context=context, attributes=attributes)
