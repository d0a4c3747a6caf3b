"""An HTTP request, its outbox row, its record in Kafka and the handler are one trace; late work links to its cause."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from structlog.testing import capture_logs

from shared.contracts.envelope import Envelope
from shared.delivery.unit_of_work import Database
from shared.telemetry import logs as telemetry
from shared.telemetry import spans
from tests.kit import wait_until
from tests.service.kernel.small_service import JOB, SmallService, feedback

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "tracer", provider.get_tracer("test"))
    monkeypatch.setattr(
        "opentelemetry.trace._TRACER_PROVIDER", provider
    )  # FastAPI asks for the one of the process
    monkeypatch.setattr(spans, "exporting", True)
    return exporter


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    def found() -> list[ReadableSpan]:
        return [one for one in exporter.get_finished_spans() if one.name == name]

    return wait_until(found, f"the span {name!r}")[0]


def trace_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def parent_id(span: ReadableSpan) -> str | None:
    return format_span_id(span.parent.span_id) if span.parent else None


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def links(span: ReadableSpan) -> list[str]:
    return [format_trace_id(link.context.trace_id) for link in span.links]


def test_a_request_its_event_and_the_handler_are_one_trace(
    service: SmallService, recorded: InMemorySpanExporter
) -> None:
    with TestClient(service.app()) as client, capture_logs([telemetry._with_trace_id]) as lines:
        event_id = client.post("/judgements/one", headers=CALLER | service.caller).json()["event_id"]
        status = wait_until(lambda: service.sent("accepted", "one"), "what the handler announced")
        request = named(recorded, "POST /judgements/{name}")
        sent, handled = named(recorded, f"send {service.topic}"), named(recorded, f"process {service.topic}")
    assert (trace_id(request), parent_id(request)) == (TRACE, PARENT)
    assert (trace_id(sent), parent_id(sent)) == (TRACE, span_id(request))
    assert (trace_id(handled), parent_id(handled)) == (TRACE, span_id(request))
    assert status["traceparent"] == f"00-{TRACE}-{span_id(handled)}-01"

    assert (request.kind, sent.kind, handled.kind) == (SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER)
    asked = {
        "http.request.method": "POST",
        "http.route": "/judgements/{name}",
        "http.response.status_code": 200,
        "url.path": "/judgements/one",
    }
    assert asked.items() <= dict(request.attributes or {}).items()
    told = dict(handled.attributes or {})
    assert told == {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": service.topic,
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "messaging.consumer.group.name": f"data.{service.topic}",
        "messaging.message.id": event_id,
        "messaging.message.conversation_id": told["messaging.message.conversation_id"],
    }
    assert [line["trace_id"] for line in lines if line["event"] == "event.handled"] == [TRACE]


def test_a_job_has_a_trace_of_its_own_that_links_to_its_cause(
    service: SmallService, recorded: InMemorySpanExporter
) -> None:
    with TestClient(service.app()) as client:
        client.post("/judgements/two", headers=CALLER | service.caller)
        status = wait_until(lambda: service.sent("started", "two"), "what the job announced")
        job = named(recorded, f"job {JOB}")
    assert trace_id(job) != TRACE
    assert parent_id(job) is None
    assert links(job) == [TRACE]
    assert status["traceparent"].startswith(f"00-{trace_id(job)}-{span_id(job)}-")


@pytest.mark.parametrize(("age_seconds", "same_trace"), [(30, True), (90, False)])
def test_a_message_that_waited_for_more_than_a_minute_starts_a_new_trace(
    service: SmallService, recorded: InMemorySpanExporter, age_seconds: int, same_trace: bool
) -> None:
    asyncio.run(_send(service, "late", age_seconds))
    with TestClient(service.app()):
        handled = named(recorded, f"process {service.topic}")
    assert (trace_id(handled) == TRACE) is same_trace
    assert parent_id(handled) == (PARENT if same_trace else None)
    assert links(handled) == ([] if same_trace else [TRACE])


async def _send(service: SmallService, name: str, age_seconds: int) -> None:
    event = feedback(name)
    headers = [
        ("ce_id", name.encode()),
        ("ce_type", event.ce_type().encode()),
        ("ce_traceparent", CALLER["traceparent"].encode()),
    ]
    at = int((time.time() - age_seconds) * 1_000)
    async with AIOKafkaProducer(**service.client) as producer:
        await producer.send_and_wait(
            service.topic,
            event.model_dump_json().encode(),
            key=event.partition_key().encode(),
            headers=headers,
            timestamp_ms=at,
        )


@pytest.mark.parametrize(
    ("age_seconds", "linked_to"), [(None, []), (1, None), (3_600, [TRACE])], ids=["none", "recent", "old"]
)
def test_what_a_timer_announces_follows_a_recent_cause_and_links_to_an_old_one(
    service: SmallService,
    recorded: InMemorySpanExporter,
    age_seconds: int | None,
    linked_to: list[str] | None,
) -> None:
    cause = None
    if age_seconds is not None:
        at = datetime.now(UTC) - timedelta(seconds=age_seconds)
        cause = Envelope("c", "/t", "request", at, "c", traceparent=CALLER["traceparent"])
    asyncio.run(_announce(service, cause))
    with TestClient(service.app()):
        handled = named(recorded, f"process {service.topic}")
    if linked_to is None:
        assert (trace_id(handled), parent_id(handled)) == (TRACE, PARENT)
    else:
        created = named(recorded, f"create {service.topic}")
        assert links(created) == linked_to
        assert (trace_id(handled), parent_id(handled)) == (trace_id(created), span_id(created))


async def _announce(service: SmallService, cause: Envelope | None) -> None:
    db = Database("data", service.url)
    async with db.unit_of_work(cause) as work:
        work.emit(feedback("timer"))
    await db.close()


def test_a_handler_that_fails_says_so_without_quoting_anything(
    service: SmallService, recorded: InMemorySpanExporter
) -> None:
    with TestClient(service.app()) as client:
        client.post("/judgements/poison", headers=CALLER | service.caller)
        handled = named(recorded, f"process {service.topic}")
    assert handled.status.status_code is StatusCode.ERROR
    assert (handled.attributes or {})["error.type"] == "ValueError"
    assert not handled.events
    assert not handled.status.description


def test_probes_and_scrapes_have_no_span(service: SmallService, recorded: InMemorySpanExporter) -> None:
    with TestClient(service.app()) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            client.get(path)
        client.get("/nowhere", headers={"traceparent": "not one"} | service.caller)
    names: dict[str, Any] = {one.name: one for one in recorded.get_finished_spans()}
    assert list(names) == ["GET"]
    assert names["GET"].attributes["http.response.status_code"] == 404
    assert parent_id(names["GET"]) is None
