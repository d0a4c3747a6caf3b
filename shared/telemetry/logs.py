"""Logs as JSON lines, each with the trace it belongs to."""

import logging
import sys
from typing import Any

import structlog

from shared.telemetry import spans


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
