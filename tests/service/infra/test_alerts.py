"""Every metric and every label that an alert, a panel or a runbook names is in the scrape of a real service."""

import importlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from infra import prometheus
from infra.local import credentials
from infra.local.credentials import SERVICES
from shared.artifacts.signing import FileSigner
from shared.delivery.kafka import connection
from shared.delivery.outbox import outgoing
from tests.kit import caused
from tests.loop import Platform, until
from tests.promql import FROM_PROMETHEUS, Vocabulary
from tests.service.infra.conftest import Watched
from tests.service.monitor.events import promoted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]
ROOT = Path(__file__).parents[3]
MODEL = "desk"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(prometheus.ALERTS.read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [
    panel
    for panel in json.loads((ROOT / "infra" / "grafana" / "driftwheel.json").read_text())["panels"]
    if panel["type"] != "row"
]
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
# Metrics whose samples need a whole turn of the loop: their labels are taken from where they are declared.
DECLARED = (
    "shared.telemetry.metrics",
    "services.data.metrics",
    "services.trainer.answers",
    "services.monitor.telemetry",
)

Scrape = dict[str, frozenset[str]]


async def until_answered(platform: Platform, body: dict[str, Any]) -> None:
    async def answered() -> bool:
        return (await platform.http.post("/v1/chat/completions", json=body)).status_code == 200

    await until(answered, "an answer")


def metrics(text: str) -> Scrape:
    """Names that can be queried, with the labels of their samples; a metric without samples has none yet."""
    found: Scrape = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        for suffix in SUFFIXES.get(kind, ("",)):
            found[name + suffix] = frozenset()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, frozenset()) | frozenset(sample.labels)
    return found


def declared_labels() -> Scrape:
    for module in DECLARED:
        importlib.import_module(module)
    return {
        family.name + ("_total" if family.type == "counter" else ""): frozenset(collector._labelnames)  # type: ignore[attr-defined]
        for collector in REGISTRY._collector_to_names
        if hasattr(collector, "_labelnames")
        for family in collector.describe()
    }


@pytest.fixture(scope="module")
async def scrapes(watched: Watched) -> dict[str, Scrape]:
    """What each service exports after a first sign of life: answers, an open run, a waiting job, a champion."""
    site, platform = watched.stack.site, Platform(watched.stack)
    await platform.declare(MODEL)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    for stream in (False, True):
        await until_answered(platform, body | {"stream": stream})
    with psycopg.connect(site.database_url("trainer")) as database:
        database.execute(
            "INSERT INTO run (id, model, dataset_digest, recipe_hash, base_digest, round, recipe, state, reason, why, "
            "priority, budget, device_hour, currency, labels, attempt, fruitless, step, total_steps, loss, tokens, "
            "device_seconds, curve, sequence, created_by, created_at) "
            "VALUES ('run-1', %s, '', '', '', 1, '{}', 'running', '', '', 0, 1, 1, 'EUR', '{}', 1, 0, 3, 9, 0.5, 0, 0, "
            "'[]', 0, 'tester', now())",
            [MODEL],
        )
        database.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('default', 'train', 0, NULL, NULL, '{}', NULL)"
            "::procrastinate_job_to_defer_v1])"
        )
    event = promoted("d" * 64, model=MODEL)
    registry = FileSigner(watched.stack.home / "secrets" / credentials.event_key("registry"))
    sent = outgoing(event, caused(event), signer=registry)
    async with AIOKafkaProducer(**connection(site.kafka("admin"))) as producer:
        await producer.send_and_wait(sent.topic, sent.body, sent.key, headers=sent.headers)

    def scraped(service: str) -> str:
        return httpx2.get(f"{site.url(service)}/metrics").text

    signs = {
        "trainer": ["driftwheel_trainer_run_step{", "driftwheel_jobs{"],
        "monitor": ["driftwheel_monitor_verdicts_total{", "driftwheel_monitor_retraining_seconds{"],
        "serving": ["driftwheel_serving_first_token_seconds_bucket{"],
    }
    found = {}
    for service in SERVICES:
        wanted = ["driftwheel_consumer_lag_seconds{", "driftwheel_dead_letters{", *signs.get(service, [])]

        async def shows(service: str = service, wanted: list[str] = wanted) -> str | None:
            text = scraped(service)
            return text if all(sign in text for sign in wanted) else None

        found[service] = metrics(await until(shows, f"{wanted} of {service}"))
    await platform.http.aclose()
    return found


@pytest.fixture(scope="module")
def vocabulary(scrapes: dict[str, Scrape]) -> Vocabulary:
    merged: Scrape = {}
    for scrape in scrapes.values():
        for name, labels in scrape.items():
            merged[name] = merged.get(name, frozenset()) | labels
    declared = declared_labels()
    return Vocabulary({name: labels or declared.get(name, labels) for name, labels in merged.items()})


def quoted(texts: Iterable[str], pattern: str) -> set[str]:
    return {name for text in texts for name in re.findall(pattern, text)}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_can_fire(rule: dict[str, Any], vocabulary: Vocabulary) -> None:
    result = vocabulary.labels(rule["expr"])
    texts = list(rule["annotations"].values())
    assert quoted(texts, r"\$labels\.(\w+)") <= result, "its text names a label that its expression drops"


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_has_something_to_draw(panel: dict[str, Any], vocabulary: Vocabulary) -> None:
    for target in panel["targets"]:
        result = vocabulary.labels(target["expr"].replace("$__rate_interval", "5m"))
        assert quoted([target["legendFormat"]], r"{{(\w+)}}") <= result


def test_metrics_that_runbooks_name_exist(scrapes: dict[str, Scrape]) -> None:
    pages = [page.read_text() for page in (ROOT / "infra" / "runbooks").glob("*.md")]
    named = quoted(pages, r"`(driftwheel_\w+)")
    assert named
    assert named <= {name for scrape in scrapes.values() for name in scrape}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_exports_what_on_call_needs(service: str, scrapes: dict[str, Scrape]) -> None:
    needed: Scrape = {
        "driftwheel_consumer_lag_seconds": frozenset({"service", "group", "topic"}),
        "driftwheel_consumer_lag_messages": frozenset({"service", "group", "topic"}),
        "driftwheel_outbox_pending": frozenset({"service"}),
        "driftwheel_outbox_age_seconds": frozenset({"service"}),
        "driftwheel_outbox_sent_total": frozenset({"service"}),
        "driftwheel_outbox_refused_total": frozenset({"service"}),
        "driftwheel_events_handled_total": frozenset({"service", "topic", "outcome"}),
        "driftwheel_event_handling_seconds_bucket": frozenset({"service", "topic", "le"}),
        "driftwheel_dead_letters": frozenset({"service", "topic"}),
        "driftwheel_consumer_stopped": frozenset({"service", "topic"}),
        "driftwheel_consumer_waiting": frozenset({"service", "topic"}),
        "driftwheel_consumer_quarantined": frozenset({"service", "topic"}),
    }
    assert {name: scrapes[service].get(name) for name in needed} == needed


def test_names_follow_conventions(scrapes: dict[str, Scrape]) -> None:
    for scrape in scrapes.values():
        for name, labels in scrape.items():
            assert name.startswith(("driftwheel_", "python_", "process_"))
            assert not labels & FROM_PROMETHEUS, f"{name}: Prometheus would rename {labels & FROM_PROMETHEUS}"
