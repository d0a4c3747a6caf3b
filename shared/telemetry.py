"""Logs as JSON lines, and the metrics that every service has. Spans are in spans.py."""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared import spans

HANDLED = Counter(
    "driftwheel_events_handled_total", "Events by what became of them.", ["service", "topic", "outcome"]
)
OUTCOMES = ("handled", "duplicate", "dead")
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
    "driftwheel_consumer_lag_seconds", "Age of the oldest unhandled record.", ["service", "group", "topic"]
)
CONSUMER_LAG_MESSAGES = Gauge(
    "driftwheel_consumer_lag_messages", "Records not yet handled.", ["service", "group", "topic"]
)
OUTBOX_REFUSED = Counter(
    "driftwheel_outbox_refused_total", "Events given up because Kafka never takes them.", ["service"]
)
DEAD_LETTERS = Gauge(
    "driftwheel_dead_letters", "Messages that died and were not redriven.", ["service", "topic"]
)
JOBS = Gauge("driftwheel_jobs", "Jobs that wait or run.", ["service", "task", "state"])
JOB_OLDEST_SECONDS = Gauge(
    "driftwheel_job_oldest_seconds",
    "How long the oldest job has been due (waiting) or worked on (running).",
    ["service", "task", "state"],
)


def _with_trace_id(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """From any line of a log to its trace."""
    if trace_id := spans.current_trace_id():
        event.setdefault("trace_id", trace_id)
    return event


def configure(service: str, level: str, otlp_endpoint: str = "") -> None:
    """Set up logs and spans of this process. Call once, from an entry point."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_trace_id,
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
    spans.configure(service, otlp_endpoint)
