"""A running platform for tests, and one turn of the loop through its front door."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from aiokafka import AIOKafkaConsumer
from joserfc.jwk import OKPKey

from infra.local.stack import Stack
from shared.contracts.text import Json
from shared.delivery.kafka import connection
from shared.http.tokens import mint

INTENTS = ("balance", "transfer", "card lost", "exchange rate")
PHRASES = (
    "what is my {}", "tell me about {}", "i need help with {}", "how do i see {}", "{} please", "question on {}",
    "can you do {}", "show {}", "why is {} wrong", "urgent: {}", "where do i find {}", "explain {} to me",
)  # fmt: skip


def rows(times: int = 7) -> bytes:
    """Enough distinct rows for a dataset; what they say does not matter to a random model."""
    made = [
        {"prompt": f"{phrase.format(intent)} {n}", "completion": intent}
        for intent in INTENTS
        for phrase in PHRASES
        for n in range(times)
    ]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


class Platform:
    """The front door of a stack, as an operator with all scopes."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        key = OKPKey.import_key(json.loads((stack.home / "secrets" / "signing-key.json").read_text()))
        self.token = mint(key, "tester", ["admin"], 3_600)
        self.url = stack.urls["caddy"]
        self.http = httpx2.AsyncClient(
            base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=30
        )

    async def get(self, path: str, **params: str) -> Any:
        """JSON of a GET, or None while the service is away or does not know it yet."""
        try:
            response = await self.http.get(path, params=params)
        except httpx2.TransportError:
            return None
        return response.json() if response.status_code == 200 else None

    async def post(self, path: str, **request: Any) -> Any:
        """JSON of a POST, repeated while the service is away: every POST used here is idempotent."""

        async def once() -> Any:
            try:
                response = await self.http.post(path, **request)
            except httpx2.TransportError:
                return None
            if response.status_code >= 500 or response.status_code == 404:
                return None  # away, or the event that makes it known here is still on its way
            assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
            return response.json()

        return await until(once, f"POST {path}")

    async def declare(self, model: str, **policy: Any) -> None:
        document = {
            "model": model,
            "data": {"min_rows": 20},
            "recipe": {"method": "lora", "rank": 4, "alpha": 8, "epochs": 2, "batch_size": 8, "learning_rate": 0.01,
                       "evaluate_every": 5, "checkpoint_every": 2},
            "gates": [{"name": "measured", "metric": "exact_match", "at_least": 0.0}],
            "ramp": {"steps": [100], "min_samples": 1, "hold_seconds": 0},
            **policy,
        }  # fmt: skip
        await self.post("/api/registry/policies", json=document)

    async def upload(self, model: str, data: bytes | None = None) -> str:
        """Upload rows and ask for a dataset; returns the build's id."""
        files = {"file": ("rows.jsonl", data or rows())}
        file = await self.post("/v1/files", files=files, data={"purpose": "fine-tune"})
        build = await self.post("/api/data/datasets", json={"model": model, "files": [file["id"]]})
        return str(build["id"])

    async def runs(self, model: str) -> list[dict[str, Any]]:
        return list((await self.get("/api/trainer/runs", model=model) or {"runs": []})["runs"])

    async def champion(self, model: str) -> int | None:
        found = await self.get(f"/api/registry/models/{model}")
        return (found or {}).get("aliases", {}).get("champion")

    async def events(self, topic: str, model: str) -> list[str]:
        """Distinct ids of the events of one model on a topic, in order."""
        return [one for one, body in (await self.bodies(topic)).items() if body.get("model") == model]

    async def bodies(self, topic: str) -> dict[str, Json]:
        """Everything on a topic by event id, in order. Raises KafkaError while Kafka is away."""
        consumer = AIOKafkaConsumer(
            topic, **connection(self.stack.site.kafka("console")), auto_offset_reset="earliest", group_id=None
        )
        await consumer.start()
        try:
            ends = await consumer.end_offsets(list(consumer.assignment()))
            found: dict[str, Json] = {}
            for partition, end in ends.items():
                while await consumer.position(partition) < end:
                    for batch in (await consumer.getmany(partition, timeout_ms=500)).values():
                        for record in batch:
                            event_id = dict(record.headers)["ce_id"].decode()
                            found.setdefault(event_id, json.loads(record.value or b"{}"))
            return found
        finally:
            await consumer.stop()


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 180, pause: float = 0.2
) -> Any:
    """The first true value of `condition`; fails with `what` at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if value := await condition():
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        await asyncio.sleep(pause)
