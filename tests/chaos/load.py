"""Traffic of a chaos run: people who chat and judge, a team that uploads, another system that asks for training."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from aiokafka import AIOKafkaProducer

from shared.contracts.envelope import new_id
from shared.delivery.kafka import connection
from tests.loop import Platform, rows

TRIES = 4
"""What a client library does by itself: a failed connection and a 5xx are tried again, with back-off."""
MODEL = "chaos"


@dataclass
class Load:
    platform: Platform
    draw: random.Random
    answered: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    sent_junk: int = 0

    async def run(self, chats_per_second: float) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(1 / chats_per_second, self._chat, group))
            group.create_task(self._every(45, self._upload, group))
            group.create_task(self._every(20, self._request, group))
            group.create_task(self._every(7, self._junk, group))

    async def _every(self, seconds: float, work: Any, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(self._guarded(work))
            await asyncio.sleep(seconds)

    async def _guarded(self, work: Any) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 (a client's trouble ends that client's try, and is counted)
            self.failed[f"{work.__name__.strip('_')}: {type(error).__name__}"] += 1

    async def _post(self, path: str, **request: Any) -> httpx2.Response | None:
        """The last answer of at most `TRIES`; None if nobody ever answered."""
        answer, pause = None, 0.5
        for _ in range(TRIES):
            with contextlib.suppress(httpx2.TransportError):
                answer = await self.platform.http.post(path, **request)
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer
            await asyncio.sleep(pause)
            pause *= 2
        return answer

    async def _chat(self) -> None:
        question = f"what about {self.draw.random():.6f}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 4}
        answer = await self._post("/v1/chat/completions", json=body)
        if answer is None or answer.status_code != 200:
            why = "no answer" if answer is None else f"{answer.status_code}"
            self.failed[f"chat: {why}"] += 1
            self.failures.append((time.time(), why))
            return
        answer_id = str(answer.json()["id"]).removeprefix("chatcmpl-")
        self.answered.add(answer_id)
        if self.draw.random() < 0.5:
            body = {"answer_id": answer_id, "score": self.draw.randint(0, 1)}
            said = await self._post("/v1/feedback", json=body)
            if said is not None and said.is_success:
                self.judged.add(str(said.json()["feedback_id"]))

    async def _upload(self) -> None:
        await self.platform.upload(MODEL, rows(self.draw.randint(2, 5)))

    async def _publish(self, topic: str, body: bytes, headers: list[tuple[str, bytes]]) -> None:
        producer = AIOKafkaProducer(**connection(self.platform.stack.site.kafka("admin")), acks="all")
        async with asyncio.timeout(60):
            await producer.start()
            try:
                await producer.send_and_wait(topic, body, headers=headers)
            finally:
                await producer.stop()

    async def _request(self) -> None:
        """Half of them ask for what does not exist: these are answered, too."""
        key = f"chaos-{new_id()}"
        datasets = (await self.platform.get("/api/data/datasets", model=MODEL) or {}).get("datasets", [])
        ready = [one["digest"] for one in datasets if one.get("digest")]
        digest = self.draw.choice(ready) if ready and self.draw.random() < 0.5 else "0" * 64
        body = {"model": MODEL, "dataset_digest": digest, "idempotency_key": key}
        await self._publish("training.requested", json.dumps(body).encode(), [])
        self.asked.add(key)

    async def _junk(self) -> None:
        topic = self.draw.choice(["training.requested", "feedback.recorded"])
        body = self.draw.choice([b"", b"{", b"[]", b'{"a": NaN}', b"\xff" * 64, b"[" * 500])
        await self._publish(topic, body, [("ce_id", new_id().encode()), ("ce_source", b"/junk")])
        self.sent_junk += 1
