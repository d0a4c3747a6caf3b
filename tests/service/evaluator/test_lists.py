"""Lists of evaluations that go on where a page ended, and the answers that an evaluation keeps."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from services.evaluator.domain import Evaluation
from services.evaluator.store import Store
from tests.service.evaluator.conftest import MODEL, World, rows, wanted

Make = Callable[..., Path]
START = datetime(2026, 1, 1, tzinfo=UTC)


def score(subject: str, value: float, **other: Any) -> dict[str, Any]:
    one = {"subject": subject, "split": "test", "metric": "exact_match", "low": 0.0, "high": 1.0, "n": 60}
    return {**one, "value": value, **other}


async def many(world: World, count: int) -> None:
    """Evaluations, two of which share each moment; every tenth is of another model."""
    scores = [score("candidate", 0.1, metric="bleu"), score("champion", 0.7), score("candidate", 0.8)]
    async with world.db.unit_of_work() as work:
        for number in range(count):
            one = Evaluation(
                id=f"eval-{number:05}",
                model=MODEL if number % 10 else "other",
                run_id=f"run-{number}",
                adapter_digest="a" * 64,
                base_digest="b" * 64,
                dataset_digest="d" * 64,
                state="done",
                verdict="fail",
                reason="why " * 400,
                scores=scores,
                verdicts=[{"gate": "floor", "verdict": "fail", "value": 0.1, "bar": 0.2, "reason": "low"}],
                created_at=START + timedelta(seconds=number // 2),
            )
            assert await Store(work.session).add(one)


async def pages(world: World, **params: Any) -> list[str]:
    found: list[str] = []
    while True:
        after = {"after": found[-1]} if found else {}
        answer = await world.http.get("/evaluations", params={**params, **after})
        assert answer.status_code == 200, answer.text
        page = [one["id"] for one in answer.json()["evaluations"]]
        if not page:
            return found
        found += page


@pytest.mark.parametrize("summary", [False, True])
async def test_pages_together_are_the_list_newest_first(world: World, summary: bool) -> None:
    await many(world, 41)
    every = [f"eval-{number:05}" for number in reversed(range(41))]
    assert await pages(world, limit=7, summary=summary) == every
    others = [name for name in every if name.endswith("0")]
    assert await pages(world, limit=2, summary=summary, model="other") == others
    assert (
        await world.http.get("/evaluations", params={"after": "eval-x", "summary": summary})
    ).status_code == 404


async def test_a_summary_has_the_headline_and_no_documents(world: World) -> None:
    await many(world, 1)
    (one,) = (await world.http.get("/evaluations?summary=true")).json()["evaluations"]
    assert one["candidate"] == score("candidate", 0.8)
    assert one["champion"] == score("champion", 0.7)
    assert one["gates"] == [{"gate": "floor", "verdict": "fail"}]
    assert len(one["reason"]) == 400
    assert not {"scores", "verdicts", "differences", "answers", "report"} & set(one)


@pytest.mark.parametrize(("model", "index"), [(None, "evaluation_newest"), ("other", "evaluation_model")])
async def test_a_page_of_many_is_one_look_at_an_index(world: World, model: str | None, index: str) -> None:
    await many(world, 2_000)
    where = f"model = '{model}' AND" if model else ""
    async with world.db.unit_of_work() as work:
        await work.session.execute(text("ANALYZE evaluation"))
        plan = await work.session.execute(
            text(
                f"EXPLAIN SELECT id FROM evaluation WHERE {where} (created_at, id) < (now(), 'eval-1')"
                " ORDER BY created_at DESC, id DESC LIMIT 50"
            )
        )
        lines = "\n".join(line for (line,) in plan)
    assert index in lines, lines
    assert "Sort" not in lines, lines


async def test_answers_of_every_subject_are_kept_and_paged(world: World, make_adapter: Make) -> None:
    adapter, dataset = await world.adapter(make_adapter(1)), await world.dataset(rows(25))
    await world.declare()
    await world.tell(world.promoted(1, await world.adapter(make_adapter(2)), dataset))
    await world.tell(world.trained(adapter, dataset))
    name = wanted(adapter, dataset, champion=1)
    await world.evaluate(name)
    view = await world.look(name)
    assert set(view["answers"]) == {"test", "champion_test"}
    kept = view["answers"]["test"]
    assert (kept["rival"], kept["rows"], kept["kept"]) == ("champion", 25, 25)
    data = await world.objects.get(kept["bucket"], kept["key"])
    assert hashlib.sha256(data).hexdigest() == kept["sha256"]
    report = await world.report(view["report"])
    assert report["answers"] == view["answers"]
    assert report["differences"] == view["differences"]
    versus = {(one["versus"], one["split"]) for one in view["differences"]}
    assert versus == {
        ("base", "test"),
        ("few_shot", "test"),
        ("champion", "test"),
        ("champion", "champion_test"),
    }

    async def page(**params: Any) -> Any:
        answer = await world.http.get(f"/evaluations/{name}/answers", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    first = await page(limit=20)
    rest = await page(limit=20, after=first["answers"][-1]["position"])
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert len({one["row"] for one in first["answers"] + rest["answers"]}) == 25
    assert set(first["answers"][0]["answers"]) == {"base", "few_shot", "candidate", "champion"}
    assert len((await page(change="regression"))["answers"]) == kept["regressions"]


async def test_answers_that_are_not_there(world: World) -> None:
    await many(world, 1)
    for path, status in (
        ("/evaluations/eval-x/answers", 404),
        ("/evaluations/eval-00000/answers", 404),
        ("/evaluations/eval-00000/answers?split=train", 422),
        ("/evaluations/eval-00000/answers?change=worse", 422),
        ("/evaluations/eval-00000/answers?after=-2", 422),
        ("/evaluations/eval-00000/answers?limit=201", 422),
    ):
        assert (await world.http.get(path)).status_code == status, path
