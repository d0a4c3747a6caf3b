"""The drill of an on-call engineer: one id, what waits and why, since when, and the button that mends it."""

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from playwright.async_api import expect

from shared.contracts.events import DatasetReady
from shared.delivery.kafka import connection
from tests.browser import browsing, chromium, visit
from tests.loop import Platform, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]


async def driftwheel(platform: Platform, *arguments: str) -> str:
    """What the command says on stdout, as somebody says it who has only the front door and a token."""
    environment = os.environ | {"DRIFTWHEEL_URL": platform.url, "DRIFTWHEEL_TOKEN": platform.token}
    command = [sys.executable, "-m", "services.console.cli", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def traced(platform: Platform, any_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await driftwheel(platform, "trace", any_id, "--json"))
    return found


async def test_a_dead_service_is_named_with_what_waits_for_it(platform: Platform) -> None:
    model = "drill"
    await platform.declare(model)
    await platform.upload(model)

    async def evaluating() -> Any:
        found = await platform.get("/api/evaluator/evaluations", model=model)
        return (found or {}).get("evaluations")

    await until(evaluating, "an evaluation", pause=0.05)
    await asyncio.to_thread(platform.stack.take_down, "serving")

    async def approved() -> Any:
        return await platform.events("model.approved", model)

    (approval,) = await until(approved, "the approval", pause=1)
    story = await traced(platform, f"{model}:1")
    assert story["unreachable"] == ["serving"]
    waiting = story["waiting"]
    assert (waiting["topic"], waiting["service"], waiting["after"]) == (
        "rollout.changed",
        "serving",
        "model.approved",
    )
    assert waiting["event_id"] == approval
    assert waiting["reason"] == "serving does not answer"
    assert waiting["waited_seconds"] > 0
    text = await driftwheel(platform, "trace", approval)
    assert re.search(r"(?s)next +rollout\.changed from serving, .* so far: serving does not answer", text)

    await asyncio.to_thread(platform.stack.start, "serving")

    async def promoted() -> bool:
        return await platform.champion(model) == 1

    await until(promoted, "the promotion")

    async def ended() -> bool:
        return (await traced(platform, f"{model}:1"))["waiting"] is None

    await until(ended, "the end of the story", 60, pause=1)
    text = await driftwheel(platform, "trace", approval)
    assert "model.promoted" in text
    assert "end   nothing more is expected" in text


async def test_a_poisoned_event_is_found_redriven_and_the_loop_goes_on(platform: Platform) -> None:
    """A dataset of a model that nobody declared: it dies, the model is declared, and the event is sent again."""
    donor, model = "drill-donor", "drill-poison"
    await platform.declare(donor)
    build = await platform.upload(donor)

    async def digest() -> Any:
        return (await platform.get(f"/api/data/datasets/{build}") or {}).get("digest")

    event = DatasetReady(
        model=model, digest=await until(digest, "a dataset"), generation=1, rows={"train": 10}, why="upload"
    )
    producer = AIOKafkaProducer(**connection(platform.stack.site.kafka("admin")))
    await producer.start()
    key, body = event.partition_key().encode(), event.model_dump_json().encode()
    record = await producer.send_and_wait(
        event.topic, body, key, headers=[("ce_id", b"drill-poison-1"), ("ce_type", event.ce_type().encode()), ("ce_source", b"/crm"), ("ce_specversion", b"1.0"), ("ce_time", b"2026-01-01T00:00:00Z")]
    )  # fmt: skip
    await producer.stop()

    async def dead() -> Any:
        found = await platform.get("/api/trainer/dead-letters")
        return [
            letter for letter in (found or {}).get("dead_letters", []) if letter["offset"] == record.offset
        ]

    (letter,) = await until(dead, "the death of the event", 60)
    assert "not declared" in letter["error"]
    story = await traced(platform, "drill-poison-1")
    assert story["waiting"]["command"] == "driftwheel dlq redrive trainer drill-poison-1"

    await platform.declare(model)
    await _redriven(platform)

    async def trained() -> Any:
        return [run for run in await platform.runs(model) if run["state"] == "succeeded"]

    await until(trained, "the run of the redriven event")
    story = await traced(platform, "drill-poison-1")
    assert story["waiting"] is None or story["waiting"]["after"] != "dataset.ready"
    assert len(await platform.runs(model)) == 1


async def _redriven(platform: Platform) -> None:
    """By the button of the page where there is a browser, else by the command that the page names."""
    executable = chromium()
    if executable is None:
        await driftwheel(platform, "dlq", "redrive", "trainer", "drill-poison-1")
        return
    async with browsing(executable) as browser:
        window = await visit(browser, platform.url, platform.token)
        page = window.page
        await page.goto("/dead-letters")
        await page.get_by_role("link", name="drill-poison-1").first.click()
        await expect(page.locator("#main")).to_contain_text("not declared")
        await page.locator("summary", has_text="Redrive").first.click()
        await page.locator("details.action[open] form button").click()
        await expect(page.locator(".said")).to_contain_text("Sent to dataset.ready again")
        assert window.complaints == []
