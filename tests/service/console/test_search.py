"""`driftwheel events search` on real Kafka: found by header, id and text, and it ends."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner, Result

from infra.local.environment import kafka_environment
from services.console.cli import app
from services.console.door import Exit

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def records(kafka: Any) -> tuple[str, str]:
    """Two topics: a hundred records each, one of them binary; those of the first hundred seconds are two hours old."""
    topics = (kafka.fresh_topic(partitions=3), kafka.fresh_topic())
    asyncio.run(_fill(kafka.client(), topics))
    return topics


async def _fill(client: dict[str, Any], topics: tuple[str, str]) -> None:
    async with AIOKafkaProducer(**client) as producer:
        for topic in topics:
            for n in range(100):
                age = 2 * HOUR_MS if n < 50 else 0
                await producer.send(
                    topic,
                    json.dumps({"run_id": f"r-{n}", "text": f"Grüße {n}"}).encode()
                    if n != 7
                    else b"\xff\xfe",
                    key=f"k-{n}".encode(),
                    headers=[
                        ("ce_source", b"/crm" if n % 10 == 0 else b"/data"),
                        ("ce_correlationid", f"c-{n}".encode()),
                    ],
                    timestamp_ms=int(time.time() * 1_000) - age,
                )
        await producer.flush()


@pytest.fixture
def search(kafka: Any, records: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DRIFTWHEEL_HOME", str(tmp_path))
    for name, value in kafka_environment(kafka.settings()).items():
        monkeypatch.setenv(f"DRIFTWHEEL_{name}", value)

    def run(*arguments: str, topics: tuple[str, ...] = records) -> Result:
        named = [part for topic in topics for part in ("--topic", topic)]
        return CliRunner().invoke(app, ["events", "search", *named, *arguments], env={"NO_COLOR": "1"})

    return run


def found(told: Result) -> list[Any]:
    assert told.exit_code == Exit.OK, told.output
    return [json.loads(line) for line in told.stdout.splitlines()]


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (("--header", "ce_source=/crm"), 20),
        (("--header", "ce_source=/crm", "--header", "ce_correlationid=c-20"), 2),
        (("--id", "c-3"), 2),
        (("--id", "k-7"), 2),
        (("--id", "r-99"), 2),
        (("--text", "GRÜSSE 5"), 22),
        (("--header", "ce_source=/crm", "--since", "1h"), 10),
        (("--header", "ce_source=/crm", "--limit", "3"), 3),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_what_is_asked_is_found(
    search: Any, records: tuple[str, str], asked: tuple[str, ...], count: int
) -> None:
    events = found(search(*asked, "--json"))
    assert len(events) == count
    if "--limit" not in asked:
        assert {event["topic"] for event in events} == set(records)


def test_people_read_lines(search: Any) -> None:
    told = search("--id", "c-3")
    assert told.stdout.count("run_id=r-3 ") == 2


def test_nothing_found_is_3(search: Any) -> None:
    told = search("--id", "c-3000")
    assert told.exit_code == Exit.NOT_FOUND
    assert told.stdout == ""
    assert "no event matches" in told.stderr


def test_a_time_after_the_last_record_and_an_empty_topic_end_at_once(search: Any, kafka: Any) -> None:
    assert search("--id", "c-3", "--since", "2099-01-01T00:00:00Z").exit_code == Exit.NOT_FOUND
    assert search("--id", "c-3", topics=(kafka.fresh_topic(),)).exit_code == Exit.NOT_FOUND


def test_an_unknown_topic_is_named(search: Any) -> None:
    told = search("--id", "x", topics=("no.such.topic",))
    assert told.exit_code == Exit.USAGE
    assert "no.such.topic" in told.stderr


def test_kafka_that_is_away_is_5(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWHEEL_KAFKA_BOOTSTRAP", "127.0.0.1:9")
    assert search("--id", "x").exit_code == Exit.UNAVAILABLE
