"""The demo's story with fewer rows, on the real base model and the small engine: the loop closes by itself."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from examples.support.door import Door
from examples.support.people import People, Query, queries
from examples.support.story import MODEL, Scale, closed, tell
from infra.local.stack import Stack
from shared import trace
from tests.loop import Platform

SUPPORT = Path(__file__).parents[2] / "examples" / "support"
BEFORE, AFTER = 6, 4
SCALE = Scale(queries_before=60, queries_after=120, queries_at_the_end=60, patience=600)


@pytest.fixture(scope="module")
def real_stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-flow-"))
    with Stack(home, engine="transformers", http_port=18280) as stack:
        stack.start()
        yield stack
    shutil.rmtree(home, ignore_errors=True)


def policy() -> dict[str, object]:
    """The example's policy, for a story of a third of the size."""
    document: dict[str, object] = yaml.safe_load((SUPPORT / "policy.yaml").read_text())
    document["data"] = {"min_rows": 100, "max_tokens": 128}
    document["gates"] = [
        {"name": "floor", "metric": "exact_match", "at_least": 0.3},
        {"name": "no-forgetting", "split": "champion_test", "versus": "champion", "margin": -0.4},
    ]
    document["ramp"] = {"steps": [25, 100], "min_samples": 5, "hold_seconds": 1, "max_quality_loss": 0.5}
    document["drift"] = {
        "window_predictions": 60,
        "min_score": 0.65,
        "min_feedback": 20,
        "max_quality_loss": 0.2,
    }
    document["retrain"] = {"cooldown_seconds": 600, "min_corrected": 90}
    return document


def only(asked: list[Query], intents: set[str]) -> list[Query]:
    return [query for query in asked if query.intent in intents]


@pytest.mark.slow
@pytest.mark.timeout(1_500)
async def test_drift_leads_to_a_better_champion_with_no_hand_on_it(real_stack: Stack, tmp_path: Path) -> None:
    rows = queries(SUPPORT / "before.jsonl")
    old = set(sorted({row.intent for row in rows})[:BEFORE])
    shifted = queries(SUPPORT / "traffic_after.jsonl")
    new = set(sorted({query.intent for query in shifted})[:AFTER])
    upload = tmp_path / "before.jsonl"
    upload.write_text(
        "".join(json.dumps({"prompt": r.prompt, "completion": r.intent}) + "\n" for r in only(rows, old))
    )
    platform = Platform(real_stack)
    door, people = Door(platform.url, platform.token, print), People(platform.url, platform.token, MODEL)
    try:
        story = await tell(
            door,
            people,
            policy(),
            upload,
            only(queries(SUPPORT / "traffic_before.jsonl"), old),
            only(shifted, new),
            only(queries(SUPPORT / "held_out_after.jsonl"), old | new),
            SCALE,
            print,
        )
        assert closed(story) == []
        champions = [event["version"] for event in story.aliases if event["alias"] == "champion"]
        assert champions == [1, 2]
        ids: set[str] = set()
        for name in ("monitor", "data", "trainer", "evaluator", "registry", "serving"):
            found = await door.get(f"/api/{name}/trace/{story.drift['id']}")
            ids |= set(found["correlations"])
        parts = [
            (await platform.http.get(f"/api/{name}/stories", params=[("id", i) for i in sorted(ids)])).json()
            for name in ("monitor", "data", "trainer", "evaluator", "registry", "serving")
        ]
        told = [step for root in trace.merge(parts) for step in _flat(root)]
        wanted = ("drift.detected", "dataset.ready", "model.trained", "model.evaluated", "model.approved")
        assert set(wanted) | {"rollout.changed", "model.promoted"} <= {step.topic for step in told}
    finally:
        await door.close()
        await people.close()
        await platform.http.aclose()


def _flat(step: trace.Step) -> Iterator[trace.Step]:
    yield step
    for caused in step.causes:
        yield from _flat(caused)
