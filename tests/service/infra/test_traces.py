"""Real services send real spans; a collector that is away changes nothing."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from joserfc.jwk import OKPKey

from infra.local.stack import Stack
from shared.http.tokens import mint
from tests.service.infra.conftest import Watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def until(look: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return found


def door(stack: Stack) -> httpx2.Client:
    key = OKPKey.import_key(json.loads((stack.home / "secrets" / "signing-key.json").read_text()))
    token = mint(key, "tester", ["admin"], 3_600)
    return httpx2.Client(
        base_url=stack.urls["caddy"], headers={"authorization": f"Bearer {token}"}, timeout=30
    )


def declare(http: httpx2.Client, model: str, **headers: str) -> float:
    """Seconds it took to declare a model."""
    began = time.monotonic()
    answer = http.post(
        "/api/registry/policies", json={"model": model, "data": {"min_rows": 20}}, headers=headers
    )
    assert answer.is_success, answer.text
    return time.monotonic() - began


def test_a_policy_is_followed_through_all_services_in_one_trace(watched: Watched) -> None:
    def told() -> dict[str, Any]:
        mine = [(service, span) for service, span in watched.collector.spans if span.trace_id.hex() == TRACE]
        return {f"{service.removeprefix('driftwheel-')}: {span.name}": span for service, span in mine}

    with door(watched.stack) as http:
        declare(http, "traced", traceparent=TRACEPARENT)
    readers = ("data", "trainer", "evaluator", "serving", "monitor")
    expected = {
        "registry: POST /policies",
        "registry: send model.declared",
        *(f"{service}: process model.declared" for service in readers),
    }
    until(lambda: expected <= told().keys(), f"{sorted(expected)}; got {sorted(told())}")
    spans = told()
    request = spans["registry: POST /policies"]
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    for name in expected - {"registry: POST /policies"}:
        assert spans[name].parent_span_id == request.span_id


def test_a_collector_that_is_away_changes_nothing(watched: Watched) -> None:
    watched.collector.stop()
    with door(watched.stack) as http:
        slowest = max(declare(http, f"untraced-{number}") for number in range(20))
        assert slowest < 5

        def arrived() -> bool:
            text = httpx2.get(f"{watched.stack.site.url('serving')}/metrics").text
            line = next(
                line
                for line in text.splitlines()
                if line.startswith("driftwheel_consumer_lag_messages{") and 'topic="model.declared"' in line
            )
            return float(line.rpartition(" ")[2]) == 0

        until(arrived, "the policies at serving")
        began = time.monotonic()
        watched.stack.restart("registry")
        assert time.monotonic() - began < 15, "the service waited for the collector at its end"
        watched.stack.wait_ready("registry")
        assert declare(http, "after-the-restart") < 5
