"""The demo's story with fewer rows, told once: on the real base model and the small engine, watched in a browser."""

import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from examples.support.door import Door
from examples.support.people import People, Query, queries
from examples.support.story import MODEL, Scale, Story, tell
from infra.local.stack import Stack
from tests.browser import Watcher, chromium
from tests.loop import Platform

SUPPORT = Path(__file__).parents[2] / "examples" / "support"
BEFORE, AFTER = 6, 4
SCALE = Scale(queries_before=60, queries_after=120, queries_at_the_end=60, patience=600)


@dataclass
class Told:
    """The story at its end, the platform it was told on, and what a home page saw that was never loaded again."""

    story: Story
    platform: Platform
    seen_at_home: list[str]


@pytest.fixture(scope="package")
def real_stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-flow-"))
    with Stack(home, engine="transformers", http_port=18280) as stack:
        stack.start()
        yield stack
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
async def told(real_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    platform = Platform(real_stack)
    people = People(platform.url, platform.token, MODEL)
    door = Door(platform.url, platform.token, print)
    upload = tmp_path_factory.mktemp("flow") / "before.jsonl"
    async with Watcher.of(chromium(), platform.url, platform.token) as watcher:
        try:
            yield Told(await _tell(door, people, upload), platform, await watcher.seen())
        finally:
            await door.close()
            await people.close()
            await platform.http.aclose()


async def _tell(door: Door, people: People, upload: Path) -> Story:
    rows = queries(SUPPORT / "before.jsonl")
    old = set(sorted({row.intent for row in rows})[:BEFORE])
    shifted = queries(SUPPORT / "traffic_after.jsonl")
    new = set(sorted({query.intent for query in shifted})[:AFTER])
    upload.write_text(
        "".join(json.dumps({"prompt": r.prompt, "completion": r.intent}) + "\n" for r in _only(rows, old))
    )
    return await tell(
        door,
        people,
        policy(),
        upload,
        _only(queries(SUPPORT / "traffic_before.jsonl"), old),
        _only(shifted, new),
        _only(queries(SUPPORT / "held_out_after.jsonl"), old | new),
        SCALE,
        print,
    )


def policy() -> dict[str, object]:
    """The example's policy, for a story of a third of the size."""
    document: dict[str, object] = yaml.safe_load((SUPPORT / "policy.yaml").read_text())
    document["data"] = {"min_rows": 100, "max_tokens": 128}
    document["generation"] = {"max_tokens": 12, "few_shot": 8, "max_rows": 48}
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
    document["retrain"] = {"cooldown_seconds": 600, "min_corrected": 90, "max_rows_per_subject": 1.0}
    return document


def _only(asked: list[Query], intents: set[str]) -> list[Query]:
    return [query for query in asked if query.intent in intents]
