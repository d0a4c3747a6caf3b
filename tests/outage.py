"""Kafka, PostgreSQL and S3 go away under traffic: who notices, and what is left of it afterwards."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import httpx2
import psycopg
from aiokafka.errors import KafkaError

from tests.loop import Platform, until

PARTS = ("kafka", "postgres", "s3")
How = Literal["gone", "frozen"]


async def champion(platform: Platform, model: str) -> None:
    """One turn of the loop, until the front door answers with its version."""
    await platform.declare(model)
    await platform.upload(model)

    async def answered() -> bool:
        response = await ask(platform, f"{model}@champion")
        return response is not None and response.status_code == 200

    await until(answered, f"the champion of {model}", 600)


async def ask(platform: Platform, model: str) -> httpx2.Response | None:
    """None if nobody answered."""
    question = [{"role": "user", "content": "what is my balance"}]
    try:
        return await platform.http.post(
            "/v1/chat/completions", json={"model": model, "messages": question, "max_tokens": 4}
        )
    except httpx2.TransportError:
        return None


@asynccontextmanager
async def outage(platform: Platform, how: How) -> AsyncIterator[None]:
    """All three are away inside. `gone`: killed with -9; `frozen`: every process stopped, its connections open."""
    stack = platform.stack
    if how == "gone":
        for part in PARTS:
            await asyncio.to_thread(stack.take_down, part)
    else:
        for part in PARTS:
            os.killpg(stack.pid(part), signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "gone":
            await asyncio.to_thread(stack.start, *PARTS)
        else:
            for part in PARTS:
                os.killpg(stack.pid(part), signal.SIGCONT)


@dataclass
class Traffic:
    """Chats at a steady rate whoever answers how fast, each judged by its caller at once."""

    platform: Platform
    model: str
    per_second: float = 2.0
    answers: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    judged: dict[str, str] = field(default_factory=dict)
    judgements: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.statuses.total() - self.statuses["200"]

    async def run(self, seconds: float) -> None:
        started, calls = time.monotonic(), []
        for number in range(int(seconds * self.per_second)):
            await asyncio.sleep(max(0.0, started + number / self.per_second - time.monotonic()))
            calls.append(asyncio.create_task(self._one()))
        await asyncio.gather(*calls)

    async def _one(self) -> None:
        started = time.monotonic()
        response = await ask(self.platform, self.model)
        self.statuses[str(response.status_code) if response is not None else "no answer"] += 1
        if response is None or response.status_code != 200:
            return
        self.seconds.append(time.monotonic() - started)
        answer_id = response.headers["x-answer-id"]
        self.answers.append(answer_id)
        try:
            kept = await self.platform.http.post("/v1/feedback", json={"answer_id": answer_id, "score": 1})
        except httpx2.TransportError:
            self.judgements[0] += 1
            return
        self.judgements[kept.status_code] += 1
        if kept.is_success:
            self.judged[kept.json()["feedback_id"]] = answer_id


@dataclass(frozen=True)
class Kept:
    """What of the traffic is where it belongs: rows, events and lines of text by answer, judgements by id."""

    rows: int
    events: Counter[str]
    texts: int
    judgements: int
    judgement_events: Counter[str]


async def kept(platform: Platform, traffic: Traffic) -> Kept:
    database = platform.stack.site.database_url("serving")
    async with await psycopg.AsyncConnection.connect(database) as connection:
        found = await connection.execute(
            "SELECT count(*), count(object_key) FROM prediction WHERE answer_id = ANY(%s)", [traffic.answers]
        )
        rows, texts = await found.fetchone() or (0, 0)
        found = await connection.execute(
            "SELECT count(*) FROM feedback WHERE feedback_id = ANY(%s)", [list(traffic.judged)]
        )
        (judgements,) = await found.fetchone() or (0,)
    answers = Counter(body["answer_id"] for body in (await platform.bodies("prediction.served")).values())
    judged = Counter(body["feedback_id"] for body in (await platform.bodies("feedback.recorded")).values())
    return Kept(
        rows,
        Counter({one: answers[one] for one in traffic.answers}),
        texts,
        judgements,
        Counter({one: judged[one] for one in traffic.judged}),
    )


async def all_kept(platform: Platform, traffic: Traffic) -> Kept | None:
    """None while something is still on its way."""
    try:
        found = await kept(platform, traffic)
    except (psycopg.OperationalError, KafkaError):
        return None
    whole = found.rows == len(traffic.answers) and found.judgements == len(traffic.judged)
    arrived = min(found.events.values(), default=1) and min(found.judgement_events.values(), default=1)
    return found if whole and arrived else None
