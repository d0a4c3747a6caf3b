"""Server time of the console's pages over a large installation: `python -m bench.console`.

One real turn of the loop on a random tiny model gives rows of every kind; SQL then multiplies them: 10,000 versions, 1,000
runs, evaluations and datasets, 1,000,000 events, 1,000 dead letters. Exit code 1 if a page takes more than 100 ms (median).
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from psycopg import sql
from rich.console import Console
from rich.table import Table

from infra.base_model.tiny import make_tiny
from infra.local.settings import LocalSettings
from infra.local.stack import Stack
from services.console.session import COOKIE
from shared.contracts.topology import SERVICES
from tests.loop import Platform, until

MODEL = "bench"
VERSIONS, RUNS, EVENTS, DEAD = 10_000, 1_000, 1_000_000, 1_000
BUDGET_MS = 100.0
TIMES, ROUNDS = 5, 3
_DIGEST = "encode(sha256(convert_to({name} || i, 'UTF8')), 'hex')"


def multiply(connection: psycopg.Connection[Any], table: str, count: int, **changed: str) -> None:
    """Copy one row of the table `count` times; `changed` holds SQL for columns that must differ, with `i` from 2."""
    names = [
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s "
            "AND is_identity = 'NO' ORDER BY ordinal_position",
            [table],
        )
    ]
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    values = sql.SQL(", ").join(
        sql.SQL(changed[name]) if name in changed else sql.SQL("one.{}").format(sql.Identifier(name))
        for name in names
    )
    query = sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT * FROM {table} LIMIT 1) AS one, "
        "generate_series(2, {last}) AS i ON CONFLICT DO NOTHING"
    ).format(table=sql.Identifier(table), columns=columns, values=values, last=sql.Literal(count))
    connection.execute(query)
    connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))


DIE = """
INSERT INTO dead_letters (topic, partition, "offset", event_id, source, type, correlationid, state, attempts, error, event_time,
    recorded_at, received_at, handled_at, day, headers, body)
SELECT topic, partition, "offset", event_id, source, topic || '.v1', coalesce(correlationid, event_id), 'dead', 1, 'a reason',
    recorded_at, recorded_at, received_at, handled_at, day, '[]', '{}'
FROM inbox WHERE source = %(source)s ORDER BY "offset" LIMIT %(count)s ON CONFLICT DO NOTHING
"""


def earlier(unit: str) -> str:
    return f"now() - i * interval '1 {unit}'"


def fill(stack: Stack) -> None:
    """Raises RuntimeError if less came of it than the figures are told for."""
    fill_loop(stack, _DIGEST.format(name="'x'"))
    tables = [
        (service, table)
        for service in SERVICES
        for table in ("sent", "inbox")
        if count(stack, service, table)
    ]
    for service, table in tables:
        # What one service sent is what the next one handled.
        sender = service if table == "sent" else SERVICES[SERVICES.index(service) - 1]
        changed = {
            "event_id": f"'{sender}-event-' || i", "correlationid": f"'{sender}-story-' || i / 20",
            "causationid": f"'{sender}-event-' || i - 1", "offset": "i", "refs": f"ARRAY['{sender}-run-' || i / 20]",
        }  # fmt: skip
        if table == "sent":
            changed |= {"created_at": earlier("second"), "sent_at": earlier("second")}
        else:
            changed |= {
                "handled_at": earlier("second"),
                "received_at": earlier("second"),
                "source": f"'/{sender}'",
            }
        with psycopg.connect(stack.site.database_url(service), autocommit=True) as connection:
            multiply(connection, table, EVENTS // len(tables) + 1, **changed)
            if table == "inbox":
                connection.execute(DIE, {"source": f"/{sender}", "count": DEAD // len(SERVICES) + 2})
    events = sum(count(stack, *table) for table in tables)
    dead = sum(count(stack, service, "dead_letters") for service in SERVICES)
    if events < EVENTS or dead < DEAD:
        raise RuntimeError(f"only {events} events and {dead} dead letters were made")


def count(stack: Stack, service: str, table: str) -> int:
    with psycopg.connect(stack.site.database_url(service)) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def fill_loop(stack: Stack, digest: str) -> None:
    """Versions, runs, evaluations, datasets."""
    with psycopg.connect(stack.site.database_url("registry"), autocommit=True) as connection:
        version = {
            "number": "i", "adapter_digest": digest, "run_id": "'run-' || i % 999 + 2", "engine_name": f"'{MODEL}-v' || i",
            "evaluation_id": "'eval-' || i % 999 + 2", "dataset_digest": digest, "decided_at": earlier("minute"),
        }  # fmt: skip
        multiply(connection, "model_version", VERSIONS, **version)
        multiply(connection, "alias_event", VERSIONS, sequence="i + 10", version="i", at=earlier("minute"))
        connection.execute("UPDATE logical_model SET versions = %s, sequence = %s", [VERSIONS, VERSIONS + 10])
    with psycopg.connect(stack.site.database_url("trainer"), autocommit=True) as connection:
        run = {
            "id": "'run-' || i", "round": "i", "adapter_digest": digest, "created_at": earlier("minute"),
            "dataset_digest": digest,
        }  # fmt: skip
        multiply(connection, "run", RUNS, **run)
        connection.execute(
            "INSERT INTO entry SELECT 'run-' || i, sequence, status, at FROM entry, generate_series(2, %s) AS i "
            "ON CONFLICT DO NOTHING",
            [RUNS],
        )
    with psycopg.connect(stack.site.database_url("evaluator"), autocommit=True) as connection:
        one = {"id": "'eval-' || i", "run_id": "'run-' || i", "adapter_digest": digest}
        multiply(connection, "evaluation", RUNS, **one, created_at=earlier("minute"))
    with psycopg.connect(stack.site.database_url("data"), autocommit=True) as connection:
        one = {
            "id": "'build-' || i",
            "digest": digest,
            "drift_id": "'drift-' || i",
            "created_at": earlier("minute"),
        }
        multiply(connection, "build", RUNS, **one)


async def turn(platform: Platform) -> dict[str, str]:
    """The loop once; the ids of what it made."""
    await platform.declare(MODEL)
    build = await platform.upload(MODEL)

    async def promoted() -> bool:
        return await platform.champion(MODEL) == 1

    await until(promoted, "the first version", 300)
    await platform.post(
        "/v1/chat/completions",
        json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    )
    [run] = await platform.runs(MODEL)
    evaluation = (await platform.get("/api/evaluator/evaluations", model=MODEL))["evaluations"][0]
    rollout = (await platform.get("/api/serving/rollouts", model=MODEL))["rollouts"][0]
    return {"build": build, "run": run["id"], "evaluation": evaluation["id"], "rollout": rollout["id"]}


def pages(ids: dict[str, str]) -> list[str]:
    return [
        "/", "/datasets", f"/datasets/{ids['build']}", "/runs", "/runs?state=succeeded", f"/runs/{ids['run']}",
        f"/runs/{ids['run']}/curve.json", "/evaluations", f"/evaluations/{ids['evaluation']}", "/models",
        f"/models/{MODEL}", f"/models/{MODEL}?state=rejected", f"/models/{MODEL}/versions/1", f"/models/{MODEL}/versions/5000", "/rollouts",
        f"/rollouts/{ids['rollout']}", "/drift", "/trace", "/trace/data-story-77", "/trace/trainer-run-500", "/events",
        "/runs/compare?run=run-2&run=run-3&run=run-4", "/dead-letters/trainer/data-event-9", "/events?topic=model.trained", "/events?id=serving-event-4711", "/dead-letters", "/dead-letters?service=trainer",
    ]  # fmt: skip


async def measure(url: str, token: str, paths: list[str]) -> list[tuple[str, float, float, int, int]]:
    """Path, median and longest milliseconds of the best of three rounds, bytes, worst status."""
    found = []
    async with httpx2.AsyncClient(base_url=url, cookies={COOKIE: token}, timeout=60) as http:
        for path in paths:
            worst, size = 0, 0
            rounds = []
            for _ in range(ROUNDS):
                times = []
                for _ in range(TIMES):
                    started = time.perf_counter()
                    answer = await http.get(path)
                    times.append((time.perf_counter() - started) * 1_000)
                    worst, size = max(worst, answer.status_code), len(answer.content)
                rounds.append((statistics.median(times), max(times)))
            found.append((path, *min(rounds), size, worst))
    return found


async def run(stack: Stack, console: Console) -> int:
    platform = Platform(stack)
    ids = await turn(platform)
    console.print("filling")
    await asyncio.to_thread(fill, stack)
    url = stack.site.url("console")
    measured = await measure(url, platform.token, pages(ids))
    await platform.http.aclose()
    table = Table("page", "median ms", "max ms", "kB", "status", title="Server time")
    for path, median, longest, size, status in measured:
        colour = "red" if median > BUDGET_MS or status != 200 else "default"
        shown = path.replace(ids["run"], "RUN").replace(ids["build"], "BUILD")
        table.add_row(
            shown, f"{median:.0f}", f"{longest:.0f}", f"{size / 1_000:.0f}", str(status), style=colour
        )
    Console(width=120).print(table)
    print(json.dumps({path: round(median, 1) for path, median, *_ in measured}))
    return int(any(median > BUDGET_MS or status != 200 for _, median, _, _, status in measured))


def main() -> int:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-bench-"))
    console = Console(stderr=True)
    make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
    try:
        with Stack(home, engine="transformers", base_model=home / "tiny-model", durable=False) as stack:
            stack.start(progress=lambda part, now: console.print(f"{part} {now['state']}", style="dim"))
            return asyncio.run(run(stack, console))
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
