"""Catalogue pages: they go on where the last one ended, stay fast with thousands, and keep a version's whole way."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.service.registry.conftest import BASE, DATASET, MODEL, World, adapter, rollout, trained

MANY = 10_000


async def fill(world: World, versions: int) -> None:
    """Versions 1 to n, each of which was challenger and then champion, one a minute."""
    await world.declare()
    async with world.db.unit_of_work() as work:
        await work.session.execute(
            text(
                """
                INSERT INTO model_version (model, adapter_digest, number, state, run_id, base_digest, dataset_digest, recipe,
                    code, cost, trained_at, engine_name, scores, verdicts, reasons, remedy, decided_at)
                SELECT :model, md5(n::text) || md5(n::text), n, 'approved', 'run-' || n, :base, :dataset, '{}', '1',
                    '{"device_seconds": 1, "tokens": 1, "amount": 0.1, "currency": "EUR"}',
                    '2026-01-01Z'::timestamptz + n * interval '1 minute', 'e-' || n,
                    jsonb_build_array(jsonb_build_object('subject', 'candidate', 'split', 'test', 'metric', 'exact_match',
                        'value', 0.8, 'low', 0.7, 'high', 0.9, 'n', 60)),
                    '[]', '[]', '', '2026-01-01Z'::timestamptz + n * interval '1 minute'
                FROM generate_series(1, :versions) n
                """
            ),
            {"model": MODEL, "base": BASE, "dataset": DATASET, "versions": versions},
        )
        await work.session.execute(
            text(
                """
                INSERT INTO alias_event (model, sequence, alias, version, rollback, actor, reason, evidence, at)
                SELECT :model, n, CASE n % 3 WHEN 0 THEN 'champion' ELSE 'challenger' END,
                    CASE n % 3 WHEN 2 THEN NULL ELSE (n + 2) / 3 END, false, 'serving', 'why', '{}',
                    '2026-01-01Z'::timestamptz + (n + 2) / 3 * interval '1 minute'
                FROM generate_series(1, 3 * :versions) n
                """
            ),
            {"model": MODEL, "versions": versions},
        )
        await work.session.execute(
            text("UPDATE logical_model SET versions = :versions, sequence = 3 * :versions"),
            {"versions": versions},
        )
        await work.session.execute(text("ANALYZE"))


async def walk(world: World, path: str, name: str, key: str, **params: Any) -> list[Any]:
    """All rows of a list, page by page."""
    found: list[Any] = []
    while True:
        after = {"after": found[-1][key]} if found else {}
        page = (await world.get(path, **params, **after))[name]
        if not page:
            return found
        assert len(page) <= params["limit"]
        found += page


@pytest.mark.parametrize("summary", [False, True])
async def test_pages_of_versions_are_the_list_candidates_first(world: World, summary: bool) -> None:
    await world.declare()
    for number in range(1, 6):
        await world.tell(trained(number), await world.evaluated(number, "fail" if number == 2 else "pass"))
    for number in (6, 7, 8):
        await world.tell(trained(number))
    path = f"/models/{MODEL}/versions"
    whole = (await world.get(path, summary=summary))["versions"]
    assert [one["number"] for one in whole] == [None, None, None, 5, 4, 3, 2, 1]
    for limit in (1, 2, 5):
        assert await walk(world, path, "versions", "adapter_digest", limit=limit, summary=summary) == whole
    rejected = await walk(
        world, path, "versions", "adapter_digest", limit=1, state="rejected", summary=summary
    )
    assert [one["number"] for one in rejected] == [2]
    answer = await world.http.get(path, params={"after": adapter(99)})
    assert answer.status_code == 404


async def test_a_summary_has_the_headline_and_no_documents(world: World) -> None:
    await world.declare()
    await world.tell(trained(1), await world.evaluated(1, "fail"))
    (one,) = (await world.get(f"/models/{MODEL}/versions", summary=True))["versions"]
    assert (one["quality"]["value"], one["quality"]["n"]) == (0.8, 60)
    assert one["reason"] == "gate floor: fail: it is a fail"
    assert one["cost"]["amount"] == 0.01
    assert not {"scores", "verdicts", "recipe", "evidence"} & set(one)


async def test_models_by_name_with_their_last_change(world: World) -> None:
    for name in ("zebra", "apple", "mango"):
        await world.declare(model=name)
    assert [one["name"] for one in await walk(world, "/models", "models", "name", limit=2)] == [
        "apple",
        "mango",
        "zebra",
    ]
    declared = (await world.get(f"/policies/{'apple'}"))["declared_at"]
    assert (await world.get("/models/apple"))["changed_at"] == declared
    await world.declare()
    await world.crown(1)
    (event, *_) = (await world.get(f"/models/{MODEL}/aliases", limit=1))["events"]
    found = await world.get(f"/models/{MODEL}")
    assert found["changed_at"] == event["at"]
    assert found["aliases"] == {"champion": 1, "challenger": None}


async def test_alias_history_page_by_page(world: World) -> None:
    await fill(world, 4)
    path = f"/models/{MODEL}/aliases"
    whole = (await world.get(path))["events"]
    assert [one["sequence"] for one in whole] == list(range(1, 13))
    assert (await world.get(path, limit=5))["events"] == whole[-5:]
    assert (await world.get(path, limit=5, before=8))["events"] == whole[2:7]
    then = datetime(2026, 1, 1, 0, 2, 30, tzinfo=UTC)
    found = await world.get(path, at=then.isoformat(), limit=0)
    assert (found["aliases"], found["events"]) == ({"champion": 2, "challenger": None}, [])
    early = await world.get(path, at=(then - timedelta(days=1)).isoformat())
    assert (early["aliases"], early["events"]) == ({"champion": None, "challenger": None}, [])


async def test_the_traffic_of_a_version(world: World) -> None:
    await world.declare()
    await world.crown(1)
    await world.approve(2, champion=1)
    await world.tell(rollout(2, "started"))
    first = await world.get(f"/models/{MODEL}/versions/1/traffic")
    assert [(one["alias"], one["until"] is None, one["actor"]) for one in first["periods"]] == [
        ("champion", True, "serving"),
        ("challenger", False, "serving"),
    ]
    second = await world.get(f"/models/{MODEL}/versions/2/traffic")
    assert [(one["alias"], one["until"]) for one in second["periods"]] == [("challenger", None)]
    assert [(one["state"], one["weight"]) for one in second["rollouts"]] == [("started", 5.0)]
    await world.tell(rollout(2, "completed"))
    ended = (await world.get(f"/models/{MODEL}/versions/1/traffic"))["periods"][0]
    began = (await world.get(f"/models/{MODEL}/versions/2/traffic"))["periods"][0]
    assert ended["until"] == began["since"]
    assert (await world.http.get(f"/models/{MODEL}/versions/9/traffic")).status_code == 404


async def test_what_a_rollback_would_do(world: World) -> None:
    await world.declare()
    path = f"/models/{MODEL}/rollback"
    assert (await world.http.get(path)).status_code == 409
    await world.crown(1)
    assert (await world.http.get(path)).status_code == 409
    await world.crown(2, champion=1)
    await world.crown(3, champion=2)
    assert await world.get(path) == {"model": MODEL, "champion": 3, "target": 2}
    assert (await world.get(path, to=1))["target"] == 1
    assert (await world.http.get(path, params={"to": 9})).status_code == 409
    assert (await world.post(path, {"reason": "try"}))["champion"] == 2
    assert (await world.get(path))["target"] == 1


async def test_revisions_of_a_policy(world: World) -> None:
    for text_ in ("one", "two", "three"):
        await world.declare(description=text_)
    path = f"/policies/{MODEL}/revisions"
    found = await walk(world, path, "revisions", "revision", limit=2)
    assert [(one["revision"], one["actor"]) for one in found] == [(3, "tester"), (2, "tester"), (1, "tester")]
    assert (await world.http.get("/policies/nobody/revisions")).status_code == 404


async def test_the_model_card_comes_from_the_adapter(world: World, s3: Any) -> None:
    from shared.artifacts.objects import S3Objects

    await world.declare()
    await world.approve(1)
    path = f"/models/{MODEL}/versions/1/card"
    store = S3Objects(s3.endpoint, *s3.key("trainer"))
    key = f"sha256/{adapter(1)}/README.md"
    assert (await world.http.get(path)).status_code == 404
    await store.put("adapters", key, b"# <b>card</b> \xff")
    found = await world.get(path)
    await S3Objects(s3.endpoint, *s3.key("admin")).delete("adapters", key)
    assert found == {"adapter_digest": adapter(1), "text": "# <b>card</b> \ufffd"}


async def seconds(world: World, path: str, **params: Any) -> float:
    """How long one answer takes. The fastest of several tells of the query, the others of a busy machine."""
    started = time.perf_counter()
    await world.get(path, **params)
    return time.perf_counter() - started


async def test_ten_thousand_versions_are_answered_at_once(world: World) -> None:
    await fill(world, MANY)
    middle = (await world.get(f"/models/{MODEL}/versions/5000"))["adapter_digest"]
    versions, aliases = f"/models/{MODEL}/versions", f"/models/{MODEL}/aliases"
    pages: list[tuple[str, dict[str, Any]]] = [
        ("/models", {}),
        (f"/models/{MODEL}", {}),
        (versions, {"summary": True, "limit": 50}),
        (versions, {"summary": True, "limit": 50, "after": middle}),
        (f"{versions}/5000", {}),
        (f"{versions}/1/traffic", {}),
        (aliases, {"limit": 50}),
        (aliases, {"limit": 0, "at": "2026-01-02T00:00:30Z"}),
        (f"/models/{MODEL}/rollback", {}),
    ]
    for path, params in pages:
        await world.get(path, **params)
        taken = min([await seconds(world, path, **params) for _ in range(10)])
        print(f"{path} {params}: {taken * 1_000:.0f} ms")
        assert taken < 0.5, path
    found = (await world.get(versions, summary=True, limit=50, after=middle))["versions"]
    assert [one["number"] for one in found] == list(range(4_999, 4_949, -1))
    assert (await world.get(aliases, limit=0, at="2026-01-02T00:00:30Z"))["aliases"]["champion"] == 1_440
    async with world.db.unit_of_work() as work:
        plan = await work.session.execute(
            text(
                f"EXPLAIN SELECT number FROM model_version WHERE model = '{MODEL}' AND number < 5000"
                " ORDER BY number DESC NULLS FIRST, trained_at DESC, adapter_digest DESC LIMIT 50"
            )
        )
        lines = "\n".join(line for (line,) in plan)
    assert "model_version_number" in lines, lines
