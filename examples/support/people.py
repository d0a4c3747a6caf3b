"""The people in the story: customers who ask, and agents who say whether the answer was right."""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import openai

MAX_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Query:
    prompt: str
    intent: str


def queries(path: Path) -> list[Query]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Query(row["prompt"], row["completion"]) for row in rows]


@dataclass(slots=True)
class Tally:
    """What a phase of traffic came to; latencies in seconds."""

    right: int = 0
    asked: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    @property
    def exact_match(self) -> float:
        return self.right / self.asked if self.asked else 0.0

    def to_json(self) -> dict[str, object]:
        ordered = sorted(self.latencies)
        return {
            "asked": self.asked,
            "failed": self.failed,
            "exact_match": round(self.exact_match, 4),
            "answers_per_version": dict(sorted(self.versions.items())),
            "latency_p50_seconds": round(ordered[len(ordered) // 2], 3) if ordered else None,
            "latency_p99_seconds": round(ordered[int(len(ordered) * 0.99)], 3) if ordered else None,
        }


class People:
    """Asks through the front door with OpenAI's client, each time as another customer, and gives feedback."""

    def __init__(self, url: str, token: str, model: str) -> None:
        self._model = model
        self._ai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=2, timeout=60)
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=30
        )
        self._customer = itertools.count()

    async def ask(self, query: Query, tally: Tally, model: str | None = None) -> None:
        """One question, its answer and its feedback."""
        started = time.monotonic()
        try:
            raw = await self._ai.chat.completions.with_raw_response.create(
                model=model or self._model,
                messages=[{"role": "user", "content": query.prompt}],
                max_tokens=MAX_TOKENS,
                temperature=0,
                user=f"customer-{next(self._customer)}",
            )
        except openai.OpenAIError:
            tally.failed += 1
            return
        tally.latencies.append(time.monotonic() - started)
        answer = (raw.parse().choices[0].message.content or "").strip()
        right = answer == query.intent
        tally.asked += 1
        tally.right += right
        version = raw.headers.get("x-model-version", "base")
        tally.versions[version] = tally.versions.get(version, 0) + 1
        feedback = {"answer_id": raw.headers["x-answer-id"], "correct": right}
        if not right:
            feedback["corrected"] = query.intent
        (await self._http.post("/v1/feedback", json=feedback)).raise_for_status()

    async def crowd(
        self, asked: Sequence[Query], tally: Tally, at_once: int = 6, model: str | None = None
    ) -> Tally:
        """Ask them all, a few at a time."""
        waiting = asyncio.Queue[Query]()
        for query in asked:
            waiting.put_nowait(query)

        async def desk() -> None:
            while not waiting.empty():
                await self.ask(waiting.get_nowait(), tally, model)

        await asyncio.gather(*(desk() for _ in range(at_once)))
        return tally

    async def close(self) -> None:
        await self._ai.close()
        await self._http.aclose()
