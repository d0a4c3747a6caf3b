"""How people look at datasets: pages of them, where one comes from, how long its rows are, what differs from another."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.data.compare import compare
from services.data.comparer import Comparer
from services.data.domain import Build
from shared.contracts.text import Json
from shared.service.clock import SystemClock
from tests.service.data.conftest import MODEL, NOON, Traffic, World, drift, feedback, jsonl, questions


async def page(world: World, **params: Any) -> dict[str, Any]:
    answer = await world.http.get("/datasets", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_pages_follow_one_another_newest_first_and_are_filtered(world: World) -> None:
    async with world.db.unit_of_work() as work:
        for n in range(10):
            work.session.add(
                Build(
                    id=f"build-{n:024}",
                    model=("support", "sales")[n % 2],
                    why="upload",
                    state=("ready", "failed")[n % 5 == 0],
                    rejects=[{"reason": "empty", "place": "a:1", "excerpt": ""}],
                    created_by="tester",
                    created_at=NOON + timedelta(seconds=n // 3),
                )
            )
    seen: list[str] = []
    after = None
    while True:
        found = await page(world, limit=3, **({"after": after} if after else {}))
        seen += [build["id"] for build in found["datasets"]]
        if not found["has_more"]:
            break
        after = seen[-1]
    assert seen == [f"build-{n:024}" for n in reversed(range(10))]
    filtered = (await page(world, model="sales", state="failed"))["datasets"]
    assert [build["id"] for build in filtered] == [f"build-{5:024}"]
    assert not filtered[0].keys() & {"rejects", "lengths", "cause"}
    assert (await world.http.get("/datasets", params={"after": "build-nope"})).status_code == 404
    assert (await world.http.get("/datasets", params={"state": "nope"})).status_code == 422


async def test_a_dataset_says_where_it_comes_from_and_how_long_its_rows_are(running: World) -> None:
    await running.declare()
    file = await running.upload(jsonl(questions(60)), "first.jsonl")
    build = await running.build(file)
    (source,) = build["sources"]
    assert (source["id"], source["filename"], source["created_by"]) == (file, "first.jsonl", "tester")
    assert build["key"] == f"datasets/sha256/{build['digest']}/"
    assert build["drift"] is None
    assert build["correlation_id"] == (await running.announced())[0]["correlationid"]
    lengths = build["lengths"]
    assert lengths["characters"]["rows"] == lengths["tokens"]["rows"] == sum(build["rows"].values()) == 60
    assert sum(lengths["characters"]["counts"]) == 60
    first = questions(1)[0]
    assert lengths["characters"]["longest"] == len(first["prompt"]) + len(first["completion"]) + 1
    assert lengths["tokens"]["mean"] > 0


async def test_a_retraining_is_compared_with_its_parent(running: World) -> None:
    await running.declare()
    parent = await running.build(await running.upload(jsonl(questions(60))))
    answers = await Traffic(running).serve([f"something new {n}" for n in range(9)] + ["Question number 5?"])
    await running.tell(*answers, *(feedback(answer, "corrected answer") for answer in answers))
    await running.tell(drift(parent["digest"]))
    child = await running.end_of((await running.builds())[0]["id"])
    assert child["state"] == "ready", child["detail"]
    assert (child["drift"]["drift_id"], child["drift"]["severity"]) == ("drift-1", 0.9)
    answer = await running.http.get(f"/datasets/{child['id']}/diff", params={"against": parent["digest"]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    total = {name: sum(found[name].values()) for name in ("added", "removed", "kept", "changed_answer")}
    assert total == {"added": 9, "removed": 0, "kept": 59, "changed_answer": 1}
    assert (found["state"], found["changed_split"]) == ("done", 0)
    assert (found["digest"], found["against"]) == (child["digest"], parent["digest"])
    assert found["new_answers"]["number"] == 1
    assert found["new_answers"]["examples"][0]["answer"] == "corrected answer"


async def test_a_long_comparison_is_found_out_once_and_is_there_later(
    running: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.declare()
    one = await running.build(await running.upload(jsonl(questions(60))))
    two = await running.build(await running.upload(jsonl(questions(70))))
    calls = []

    def counted(*paths: Path) -> Json:
        calls.append(paths)
        return compare(*paths)

    monkeypatch.setattr("services.data.comparer.compare", counted)
    comparer = Comparer(running.db, running.objects, SystemClock(), None, patience=0)
    builds = [Build.model_validate(build) for build in (two, one)]
    assert [await comparer.compare(*builds), await comparer.compare(*builds)] == [None, None]
    comparer._patience = 30
    found = await comparer.compare(*builds)
    assert found is not None
    assert sum(found["added"].values()) == 10
    assert await comparer.compare(*builds) == found
    assert len(calls) == 1


async def test_what_is_no_dataset_cannot_be_compared(running: World) -> None:
    await running.declare()
    good = await running.build(await running.upload(jsonl(questions(60))))
    bad = await running.build(await running.upload(jsonl(questions(1))))
    for new, old, status in ((good, bad, 409), (bad, good, 409)):
        answer = await running.http.get(f"/datasets/{new['id']}/diff", params={"against": old["id"]})
        assert answer.status_code == status
    answer = await running.http.get(f"/datasets/{good['id']}/diff", params={"against": "0" * 64})
    assert answer.status_code == 404
    assert (await running.http.get(f"/datasets/{good['id']}/diff")).status_code == 422
    await running.objects.delete("datasets", f"sha256/{good['digest']}/manifest.json")
    answer = await running.http.get(f"/datasets/{good['id']}/diff", params={"against": good["id"]})
    assert answer.status_code == 404
    assert (await running.look(good["id"]))["model"] == MODEL
