"""The detector on real queries: a bank's desk (what version 1 was trained on) that is asked about travel."""

import asyncio
import json
import random
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.monitor.detectors import DETECTORS, Measurement, NotMeasurableError
from services.monitor.detectors import process as process_module
from services.monitor.detectors.process import DetectorProcess, answer
from services.monitor.detectors.text_domain import chance, text_domain
from shared.contracts.errors import Unavailable
from shared.contracts.policy import DriftPolicy

EXAMPLE = Path(__file__).parents[3] / "examples" / "support"


def prompts(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (EXAMPLE / name).read_text().splitlines()]


TRAINED = random.Random(0).sample(prompts("before.jsonl"), 480)


def window(name: str, seed: int, size: int = 100) -> list[str]:
    return random.Random(seed).sample(prompts(name), size)


def measure(reference: list[str], current: list[str]) -> Measurement:
    return text_domain(reference, current, DriftPolicy().min_score)


@pytest.mark.slow
def test_twenty_unshifted_windows_raise_at_most_one_false_alarm() -> None:
    measured = [measure(TRAINED, window("traffic_before.jsonl", seed)) for seed in range(20)]
    assert 0.45 < statistics.mean(one.score for one in measured) < 0.6
    assert sum(one.drifted for one in measured) <= 1


def test_shifted_windows_are_all_seen() -> None:
    measured = [measure(TRAINED, window("traffic_after.jsonl", seed)) for seed in range(20)]
    assert all(one.score > 0.8 and one.drifted for one in measured)


def test_the_same_window_gives_the_same_score() -> None:
    current = window("traffic_after.jsonl", 1)
    first, second = measure(TRAINED, current), measure(TRAINED, current)
    assert first.score == second.score
    assert first.report == second.report


def test_the_page_would_run_a_prompt_so_it_is_never_shown_as_ours() -> None:
    """The reason for serving it as an attachment only; when Evidently escapes it, that can change."""
    attack = "</script><script>alert(1)</script> holiday"
    page = measure(TRAINED, [f"{attack} {text}" for text in window("traffic_after.jsonl", 2)]).page
    assert "</script><script>alert(1)</script>" in page


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        ([], []),
        (TRAINED, []),
        (TRAINED, ["a b c"] * 19),
        (["the"] * 50, ["the"] * 50),
        (["?!"] * 50, ["…"] * 50),
    ],
    ids=["nothing", "no window", "too few", "stop words only", "no words"],
)
def test_too_little_is_not_measurable(reference: list[str], current: list[str]) -> None:
    with pytest.raises(NotMeasurableError):
        measure(reference, current)


@pytest.mark.parametrize(
    "current",
    [["same words here"] * 50, ["x" * 20_000] * 25, ["日本語 の 文"] * 30, ["\u202e right to left"] * 30],
    ids=["constant", "huge words", "no English", "controls"],
)
def test_strange_windows_give_a_finite_score(current: list[str]) -> None:
    measured = measure(TRAINED, current)
    assert 0 <= measured.score <= 1
    assert 0.5 < measured.bar <= 1


def test_chance_shrinks_with_more_data_and_matches_a_simulation() -> None:
    assert chance(10, 10) > chance(100, 100) > chance(10_000, 10_000) > 0.5
    draw = random.Random(0)

    def auc(negatives: int, positives: int) -> float:
        low, high = [draw.random() for _ in range(negatives)], [draw.random() for _ in range(positives)]
        return sum(up > down for up in high for down in low) / (negatives * positives)

    scores = sorted(auc(60, 40) for _ in range(2_000))
    assert chance(60, 40) == pytest.approx(scores[int(0.99 * len(scores))], abs=0.02)


@pytest.fixture(scope="module")
async def detectors() -> AsyncIterator[DetectorProcess]:
    process = DetectorProcess(timeout_seconds=900, idle_seconds=900)
    yield process
    await process.close()


async def test_the_process_answers_as_the_function_does(detectors: DetectorProcess) -> None:
    current = window("traffic_after.jsonl", 3)
    away = await detectors.measure("text_domain", TRAINED, current, 0.65)
    here = measure(TRAINED, current)
    assert (away.score, away.bar) == (here.score, here.bar)
    assert "<html" in away.page.lower()
    with pytest.raises(NotMeasurableError, match="each needs"):
        await detectors.measure("text_domain", TRAINED, ["one"], 0.65)
    with pytest.raises(RuntimeError, match="KeyError"):
        await detectors.measure("no-such-detector", TRAINED, current, 0.65)


async def test_a_detector_that_dies_is_tried_again_by_a_fresh_process() -> None:
    detectors = DetectorProcess(timeout_seconds=600, idle_seconds=600)
    dying = asyncio.create_task(
        detectors.measure("text_domain", TRAINED, window("traffic_after.jsonl", 3), 0.65)
    )
    while detectors._child is None:
        await asyncio.sleep(0.01)
    detectors._child.kill()
    with pytest.raises(Unavailable):
        await dying
    with pytest.raises(NotMeasurableError):
        await detectors.measure("text_domain", [], [], 0.65)
    await detectors.close()


async def test_a_detector_that_hangs_is_stopped() -> None:
    hasty = DetectorProcess(timeout_seconds=0.05, idle_seconds=60)
    with pytest.raises(Unavailable):
        await hasty.measure("text_domain", TRAINED, window("traffic_after.jsonl", 3), 0.65)
    assert hasty._child is None
    await hasty.close()


async def test_an_idle_process_ends_and_the_next_request_starts_another() -> None:
    brief = DetectorProcess(timeout_seconds=600, idle_seconds=0.01)
    for _ in range(2):
        with pytest.raises(NotMeasurableError):
            await brief.measure("text_domain", [], [], 0.65)
        while brief._child is not None:
            await asyncio.sleep(0.01)
    await brief.close()


def test_an_answer_is_one_line_whatever_the_texts_hold() -> None:
    request = json.dumps(
        {"detector": "text_domain", "reference": ["a\nb"] * 3, "current": ["\ud800"], "min_score": 0.65}
    )
    assert b"\n" not in answer(request.encode())


def test_detectors_are_one_file_each() -> None:
    folder = Path(process_module.__file__).parent
    assert set(DETECTORS) == {p.stem for p in folder.glob("*.py")} - {
        "__init__",
        "measurement",
        "process",
        "words",
    }
