"""How people look at runs: pages of them, several side by side, and what a run announced."""

from typing import Any

import pytest

from services.trainer.job import Trainer
from shared.service.clock import SystemClock
from tests.service.trainer.conftest import MODEL, TINY, World, ready


async def asked(world: World, path: str, **params: Any) -> dict[str, Any]:
    answer = await world.http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def several(world: World, number: int) -> list[str]:
    """Queued runs on one dataset, oldest first."""
    digest = await world.dataset()
    for seed in range(number):
        await world.declare(TINY.model_copy(update={"seed": seed}), revision=seed + 1)
        await world.tell(ready(digest))
    return [run.id for run in await world.runs()]


async def test_pages_of_runs_follow_one_another_and_are_filtered(world: World) -> None:
    ids = await several(world, 5)
    async with world.db.unit_of_work() as work:
        await work.execute("UPDATE run SET state = 'failed' WHERE id = :id", {"id": ids[1]})
    seen: list[str] = []
    while True:
        page = await asked(world, "/runs", limit=2, **({"after": seen[-1]} if seen else {}))
        seen += [run["id"] for run in page["runs"]]
        if not page["has_more"]:
            break
    assert seen == ids[::-1]
    (failed,) = (await asked(world, "/runs", model=MODEL, state="failed"))["runs"]
    assert (failed["id"], failed["method"]) == (ids[1], "rehearsal")
    assert not failed.keys() & {"curve", "recipe"}
    assert len((await asked(world, "/runs", dataset=failed["dataset_digest"]))["runs"]) == 5
    assert (await asked(world, "/runs", dataset="0" * 64))["runs"] == []


@pytest.mark.parametrize("query", ["state=nope", "dataset=../x", "dataset=" + "G" * 64])
async def test_bad_filters_are_refused(world: World, query: str) -> None:
    assert (await world.http.get(f"/runs?{query}")).status_code == 422


async def test_a_run_is_read_with_its_curve_its_best_point_and_its_announcements(world: World) -> None:
    run_id = await world.queued()
    await Trainer(world.objects, world.settings, SystemClock()).run(await world.attempt(run_id), run_id)
    run = await asked(world, f"/runs/{run_id}")
    measured = [point["validation_loss"] for point in run["curve"] if "validation_loss" in point]
    assert run["best"]["validation_loss"] == min(measured)
    (curve,) = (await asked(world, "/runs/curves", run=run_id))["curves"]
    assert curve == {"id": run_id, "model": MODEL, "state": "succeeded", "points": run["curve"]}

    everything = (await asked(world, f"/runs/{run_id}/entries", limit=1_000))["entries"]
    assert [entry["state"] for entry in everything][:: len(everything) - 1] == ["succeeded", "accepted"]
    pages, after = [], None
    while True:
        page = await asked(world, f"/runs/{run_id}/entries", limit=3, **({"after": after} if after else {}))
        pages += page["entries"]
        if not page["has_more"]:
            break
        after = pages[-1]["sequence"]
    assert pages == everything
    assert pages[1]["cost"]["currency"] == "EUR"


async def test_runs_stand_side_by_side_in_the_order_that_was_asked_for(world: World) -> None:
    ids = await several(world, 3)
    unknown = "run-" + "0" * 24
    wanted = [ids[2], unknown, ids[0], ids[2]]
    found = (await asked(world, "/runs/comparison", run=wanted))["runs"]
    assert [run["id"] for run in found] == [ids[2], ids[0]]
    assert [run["recipe"]["seed"] for run in found] == [2, 0]
    assert (found[0]["best"], "curve" in found[0]) == (None, False)
    assert [one["id"] for one in (await asked(world, "/runs/curves", run=wanted))["curves"]] == [
        ids[2],
        ids[0],
    ]


@pytest.mark.parametrize("path", ["/runs/comparison", "/runs/curves"])
async def test_only_a_few_known_runs_can_be_asked_for_at_once(world: World, path: str) -> None:
    for runs in ([], ["run-nope"], ["run-" + "0" * 24] * 21):
        assert (await world.http.get(path, params={"run": runs})).status_code == 422
