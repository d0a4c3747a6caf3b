"""The loop closes by itself: drift leads to a better champion, and every service tells the same story."""

import pytest

from examples.support.story import closed
from services.console import causality as trace
from services.console.waiting import why
from shared.contracts.topology import SERVICES
from tests.flow.conftest import Told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
WANTED = {
    "drift.detected",
    "dataset.ready",
    "model.trained",
    "model.evaluated",
    "model.approved",
    "rollout.changed",
    "model.promoted",
}


async def test_drift_leads_to_a_better_champion_with_no_hand_on_it(told: Told) -> None:
    assert closed(told.story) == []
    champions = [event["version"] for event in told.story.aliases if event["alias"] == "champion"]
    assert champions == [1, 2]


async def test_one_trace_tells_it_all_from_any_id(told: Told) -> None:
    from datetime import UTC, datetime

    run = max(told.story.runs, key=lambda run: run["created_at"])
    for any_id in (told.story.drift["id"], run["id"], "support:2", run["dataset_digest"]):
        parts = await _parts(told, any_id)
        roots = trace.merge(parts)
        (story,) = [root for root in roots if root.topic == "drift.detected"]
        steps = list(story.walk())
        assert {step.topic for step in steps} >= WANTED, any_id
        assert {job["job"] for step in steps for job in step.jobs} >= {"train", "evaluate"}
        assert why([story], parts, [], datetime.now(UTC)) is None
        spent = trace.spent([story])
        assert spent["training"] > spent["handling"] > 0
        assert spent["evaluating"] > 0


async def _parts(told: Told, any_id: str) -> list[trace.Json]:
    ids: set[str] = set()
    for name in SERVICES:
        found = await told.platform.get(f"/api/{name}/trace/{any_id}")
        ids |= set(found["correlations"])
    return [
        (await told.platform.http.get(f"/api/{name}/stories", params=[("id", i) for i in sorted(ids)])).json()
        for name in SERVICES
    ]
