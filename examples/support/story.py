"""The story of one model: trained, served, overtaken by the world, retrained with no hand on it, and promoted again."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.support.door import Door, StoryFailed
from examples.support.people import People, Query, Tally

MODEL = "support"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; the demo's sizes. Tests tell the same story with fewer rows."""

    queries_before: int = 100
    queries_after: int = 240
    queries_at_the_end: int = 100
    at_once: int = 12
    patience: float = 900


@dataclass(slots=True)
class Story:
    """What happened, as numbers."""

    base: float | None = None
    phases: dict[str, Tally] = field(default_factory=dict)
    drift: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    aliases: list[dict[str, Any]] = field(default_factory=list)


async def tell(
    door: Door,
    people: People,
    policy: dict[str, Any],
    rows: Path,
    before: Sequence[Query],
    after: Sequence[Query],
    held_out: Sequence[Query],
    scale: Scale,
    chapter: Callable[[str], None],
) -> Story:
    """Tell the story to its end. Raises StoryFailed where it stops."""
    story = Story()
    chapter("1 · A model is declared, and its first rows are uploaded")
    await door.post("/api/registry/policies", json=policy)
    await _upload(door, rows)

    chapter("2 · Dataset → training → evaluation → approval → serving")
    await _version_promoted(door, 1, scale)
    story.base = await _base_score(door)

    chapter("3 · Customers ask; quality is good")
    story.phases["v1 before the shift"] = await people.crowd(
        before[: scale.queries_before], Tally(), scale.at_once
    )
    _say_tally(door, "v1 before the shift", story)

    chapter("4 · The world shifts: new intents appear")
    story.phases["v1 after the shift"], story.drift = await _until_drift(door, people, after, scale)
    _say_tally(door, "v1 after the shift", story)

    chapter("5 · With no hand on it: dataset → training → evaluation → ramp, while customers keep asking")
    ramp = Tally()
    story.phases["during the ramp"] = ramp
    crowd = asyncio.create_task(_keep_asking(door, people, [*after, *before], ramp, scale))
    try:
        await _version_promoted(door, 2, scale)
    finally:
        crowd.cancel()
        with suppress(asyncio.CancelledError):
            await crowd

    chapter("6 · The same customers, the new champion")
    story.phases["v2"] = await people.crowd(held_out[: scale.queries_at_the_end], Tally(), scale.at_once)
    _say_tally(door, "v2", story)
    story.runs = (await door.get("/api/trainer/runs", model=MODEL) or {"runs": []})["runs"]
    story.aliases = (await door.get(f"/api/registry/models/{MODEL}/aliases") or {"events": []})["events"]
    return story


def closed(story: Story) -> list[str]:
    """Why the loop did not close; empty when it did: drift was seen, version 2 serves, and it is better."""
    after, last = story.phases["v1 after the shift"], story.phases["v2"]
    versions = set(last.versions)
    checks = {
        "no drift event told to retrain": story.drift.get("verdict") == "retrain",
        "version 2 did not answer everything at the end": versions == {f"{MODEL}:2"},
        "version 2 is not better than version 1 was after the shift": last.exact_match > after.exact_match,
        "answers failed": sum(tally.failed for tally in story.phases.values()) == 0,
    }
    return [why for why, good in checks.items() if not good]


async def _upload(door: Door, rows: Path) -> None:
    file = await door.post(
        "/v1/files", files={"file": (rows.name, rows.read_bytes())}, data={"purpose": "fine-tune"}
    )
    wish = {"model": MODEL, "files": [file["id"]]}

    async def ask() -> tuple[Any, str]:
        """The policy travels as an event: data builds nothing for a model it has not heard of yet."""
        made = await door.try_post("/api/data/datasets", wish)
        return made, "known to data" if made else "on its way"

    build = await door.stage("policy", "data to know the model", ask, 30)

    async def look() -> tuple[Any, str]:
        found = await door.get(f"/api/data/datasets/{build['id']}") or {}
        if found.get("state") == "failed":
            raise StoryFailed(f"the dataset could not be built: {found.get('detail')}")
        rows = ", ".join(f"{count} {split}" for split, count in (found.get("rows") or {}).items())
        return found if found.get("digest") else None, f"{found.get('state', '?')} {rows}"

    await door.stage("dataset 1", "rows to be checked, split and published", look, 120)


async def _version_promoted(door: Door, number: int, scale: Scale) -> None:
    """Follow one version from its training run to its promotion."""
    if number > 1:
        await door.stage(
            f"dataset {number}", "enough corrected answers", lambda: _dataset(door, number), scale.patience
        )
    await door.stage(f"training {number}", "the trainer", lambda: _trained(door, number), scale.patience)
    await door.stage(
        f"evaluation {number}", "the evaluator", lambda: _evaluated(door, number), scale.patience
    )
    await door.stage(
        f"rollout {number}", "the engine and the ramp", lambda: _promoted(door, number), scale.patience
    )


async def _dataset(door: Door, number: int) -> tuple[Any, str]:
    found = (await door.get("/api/data/datasets", model=MODEL) or {"datasets": []})["datasets"]
    ready = [build for build in found if build.get("digest")]
    waiting = [build["state"] for build in found if not build.get("digest")]
    return (ready if len(ready) >= number else None), f"{len(ready)} ready {waiting or ''}"


async def _trained(door: Door, number: int) -> tuple[Any, str]:
    found = (await door.get("/api/trainer/runs", model=MODEL) or {"runs": []})["runs"]
    runs = sorted(found, key=lambda run: run["created_at"])
    if len(runs) < number:
        return None, "no run yet"
    run = runs[number - 1]
    if run["state"] in {"failed", "cancelled"}:
        raise StoryFailed(f"run {run['id']} {run['state']}: {run.get('reason')}")
    loss = run.get("validation_loss") or run.get("loss")
    seen = f"{run['state']} step {run.get('step', 0)}/{run.get('total_steps', '?')}"
    return (run if run["state"] == "succeeded" else None), seen + (f" loss {loss:.3f}" if loss else "")


async def _evaluated(door: Door, number: int) -> tuple[Any, str]:
    found = (await door.get("/api/evaluator/evaluations", model=MODEL) or {"evaluations": []})["evaluations"]
    done = [evaluation for evaluation in found if evaluation.get("verdict")]
    if len(done) < number:
        return None, f"{found[0]['state']}" if found else "queued"
    last = max(done, key=lambda evaluation: evaluation["created_at"])
    told = ", ".join(f"{v['gate']} {v['verdict']}" for v in last.get("verdicts", []))
    if last["verdict"] != "pass":
        raise StoryFailed(f"the gates said {last['verdict']}: {last.get('verdicts')}")
    return last, told


async def _promoted(door: Door, number: int) -> tuple[Any, str]:
    model = await door.get(f"/api/registry/models/{MODEL}") or {}
    rollouts = (await door.get("/api/serving/rollouts", model=MODEL) or {"rollouts": []})["rollouts"]
    last = max(rollouts, key=lambda rollout: rollout["model_version"], default={})
    if last.get("model_version") == number and last.get("state") == "rolled_back":
        raise StoryFailed(f"version {number} was rolled back: {last.get('reason')}")
    champion = (model.get("aliases") or {}).get("champion")
    seen = (
        f"champion {champion or 'none'}, rollout {last.get('state', 'none')} at {last.get('weight', 0):.0f} %"
    )
    return (model if champion == number else None), seen


async def _base_score(door: Door) -> float | None:
    found = (await door.get("/api/evaluator/evaluations", model=MODEL) or {"evaluations": []})["evaluations"]
    for score in found[0].get("scores", []) if found else []:
        if (score["subject"], score["metric"], score["split"]) == ("base", "exact_match", "test"):
            return float(score["value"])
    return None


async def _until_drift(
    door: Door, people: People, after: Sequence[Query], scale: Scale
) -> tuple[Tally, dict[str, Any]]:
    """Customers ask of the new world; meanwhile we look whether the monitor says so."""
    tally = Tally()

    async def look() -> tuple[Any, str]:
        found = (await door.get("/api/monitor/drifts", model=MODEL) or {"drifts": []})["drifts"]
        retrain = [drift for drift in found if drift["verdict"] == "retrain"]
        seen = f"{tally.asked} asked, {tally.exact_match:.0%} right"
        return (retrain[0] if retrain else None), seen + "".join(f", {d['verdict']}" for d in found)

    asking = asyncio.create_task(people.crowd(after[: scale.queries_after], tally, scale.at_once))
    drift = await door.stage("drift", "the monitor to see drift that hurts", look, scale.patience)
    await asking
    return tally, drift


async def _keep_asking(
    door: Door, people: People, queries: Sequence[Query], tally: Tally, scale: Scale
) -> None:
    """A trickle while the model trains, a stream once a ramp needs evidence."""
    while True:
        for start in range(0, len(queries), scale.at_once):
            rollouts = (await door.get("/api/serving/rollouts", model=MODEL) or {"rollouts": []})["rollouts"]
            ramping = any(rollout["state"] == "running" for rollout in rollouts)
            at_once = scale.at_once if ramping else 1
            await people.crowd(queries[start : start + at_once], tally, at_once)
            if not ramping:
                await asyncio.sleep(2)


def _say_tally(door: Door, phase: str, story: Story) -> None:
    tally = story.phases[phase]
    door.say(f"[green]✓[/] {phase}: {tally.exact_match:.0%} right of {tally.asked}")
