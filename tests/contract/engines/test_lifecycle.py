"""Adapters in every engine: loaded, mixed, unloaded, refused. The last test of this file kills the engine."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.serving.engines import AdapterRefused, EngineUnavailable
from tests.contract.engines.running import NAMES, QUESTIONS, Running, ask, chat

pytestmark = pytest.mark.timeout(1_800)  # the first test waits for its engine


async def test_loading_makes_an_adapter_appear_and_twice_is_once(
    engine: Running, adapters: dict[str, Path]
) -> None:
    async with engine.client() as client:
        await client.unload("intent-v1")
        before = await client.loaded()
        await client.load("intent-v1", adapters["intent-v1"])
        await client.load("intent-v1", adapters["intent-v1"])
        assert await client.loaded() == before | {"intent-v1"}
        status, _ = await engine.post(
            "/v1/load_lora_adapter", {"lora_name": "intent-v1", "lora_path": str(adapters["intent-v2"])}
        )
        assert status == 400, "weights under a name must not change"


async def test_every_adapter_answers_as_peft_computes_it(
    loaded: Running, expected: dict[tuple[str, str], str]
) -> None:
    async with loaded.client() as client:
        for (name, question), answer in expected.items():
            assert await client.chat(name, [{"role": "user", "content": question}], 12) == answer
    for question in QUESTIONS:
        assert len({expected[name, question] for name in NAMES}) == len(NAMES), "adapters must be told apart"


async def test_sixteen_at_once_over_mixed_adapters_each_answer_as_alone(
    loaded: Running, expected: dict[tuple[str, str], str]
) -> None:
    wanted = [key for _ in range(2) for key in expected][:16]
    assert {name for name, _ in wanted} == set(NAMES)
    # Different lengths, so that answers leave and join while others run.
    limits = [4 + index % 9 for index in range(len(wanted))]
    calls = [ask(loaded, *key, max_tokens=limit) for key, limit in zip(wanted, limits, strict=True)]
    for (name, question), limit, text in zip(wanted, limits, await asyncio.gather(*calls), strict=True):
        assert text, (name, question, limit)
        assert expected[name, question].startswith(text)
    full = await asyncio.gather(*(ask(loaded, *key, max_tokens=12) for key in wanted))
    assert full == [expected[key] for key in wanted]


async def test_base_and_adapters_are_told_apart_after_many_adapters_came_and_went(
    loaded: Running, adapters: dict[str, Path], expected: dict[tuple[str, str], str]
) -> None:
    """More adapters than fit in one batch have been computed, some were unloaded, some came back."""
    folders = [adapters[name] for name in NAMES[1:]] * 3
    async with loaded.client() as client:
        for number, folder in enumerate(folders):
            await client.load(f"passing-v{number}", folder)
            await ask(loaded, f"passing-v{number}", "hello", max_tokens=2)
        for number in range(len(folders)):
            await client.unload(f"passing-v{number}")
        await client.unload("intent-v1")
        await client.load("intent-v1", adapters["intent-v1"])
    for _ in range(3):
        full = await asyncio.gather(*(ask(loaded, *key, max_tokens=12) for key in expected))
        assert dict(zip(expected, full, strict=True)) == expected


async def test_an_unknown_name_is_404_and_refused(engine: Running) -> None:
    status, answer = await engine.post("/v1/chat/completions", chat("nobody", "hello", max_tokens=1))
    assert status == 404
    assert answer["error"]["message"]
    async with engine.client() as client:
        with pytest.raises(AdapterRefused) as refused:
            await client.chat("nobody", [{"role": "user", "content": "hello"}], 1)
    assert not refused.value.retryable


async def test_after_unloading_it_is_gone_and_twice_is_once(loaded: Running) -> None:
    async with loaded.client() as client:
        await client.unload("mail-v1")
        await client.unload("mail-v1")
        assert "mail-v1" not in await client.loaded()
        with pytest.raises(AdapterRefused):
            await client.chat("mail-v1", [{"role": "user", "content": "hello"}], 1)


async def test_unloading_under_a_running_answer_lets_it_finish(loaded: Running) -> None:
    body = chat("intent-v2", "hello there", max_tokens=200, ignore_eos=True)
    events = loaded.stream("/v1/chat/completions", body)
    seen = [await anext(events), await anext(events)]
    async with loaded.client() as client:
        await client.unload("intent-v2")
    seen += [event async for event in events]
    assert seen[-1] == "[DONE]"
    assert seen[-2]["choices"][0]["finish_reason"] == "length"


async def test_what_is_no_adapter_is_refused_and_the_engine_lives(
    engine: Running, tiny_base: Path, tmp_path: Path
) -> None:
    from tests.contract.engines.adapters import make_adapter

    make_adapter(tmp_path / "rank", tiny_base, seed=4, rank=32)
    (tmp_path / "empty").mkdir()
    async with engine.client() as client:
        before = await client.loaded()
        for folder in ("nowhere", "empty", "rank"):
            with pytest.raises(AdapterRefused) as refused:
                await client.load(f"bad-{folder}", tmp_path / folder)
            assert not refused.value.retryable
        with pytest.raises(AdapterRefused):
            await client.load("base", tmp_path / "rank")
        assert await client.loaded() == before
        assert await client.health()
    assert await ask(engine, "base", "hello", max_tokens=2)


@pytest.mark.parametrize("stream", [False, True])
async def test_whoever_leaves_frees_the_engine(engine: Running, stream: bool) -> None:
    """Eight long answers are given up soon after they began: the engine stops writing them."""
    names = "driftwheel_engine_tokens", "vllm:generation_tokens_total"
    running = "driftwheel_engine_running", "vllm:num_requests_running"
    before = await engine.metric(*names)
    body = chat("base", "hello", max_tokens=1_900, ignore_eos=True)
    if stream:
        streams = [engine.stream("/v1/chat/completions", body) for _ in range(8)]
        for events in streams:
            await anext(events)
            await anext(events)
        for events in streams:
            await events.aclose()
    else:
        calls = [asyncio.create_task(engine.post("/v1/chat/completions", body)) for _ in range(8)]
        async with asyncio.timeout(60):
            while await engine.metric(*running) < 8:
                await asyncio.sleep(0.02)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
    async with asyncio.timeout(60):
        while await engine.metric(*running):
            await asyncio.sleep(0.02)
    assert await engine.metric(*names) - before < 8 * 1_900 / 2


async def test_an_adapter_that_computes_nan_is_refused_by_the_probe(
    loaded: Running, adapters: dict[str, Path], expected: dict[tuple[str, str], str], tmp_path: Path
) -> None:
    """Admission keeps such an adapter out; this is what happens if it does not.

    vLLM's CPU build then spoils some later answers of other adapters, too, through cache blocks that hold NaN: only the
    small engine promises here that others are not touched.
    """
    folder = shutil.copytree(adapters["intent-v1"], tmp_path / "nan")
    weights = folder / "adapter_model.safetensors"
    save_file({name: np.full_like(values, np.nan) for name, values in load_file(weights).items()}, weights)
    async with loaded.client() as client:
        await client.load("nan-v1", folder)
        with pytest.raises(AdapterRefused, match="not finite"):
            await client.chat("nan-v1", [{"role": "user", "content": "hello"}], 4)
        await client.unload("nan-v1")
        assert await client.health()
    if loaded.name == "transformers":
        for question in QUESTIONS:
            assert await ask(loaded, "base", question, max_tokens=12) == expected["base", question]


async def test_killed_with_9_the_client_says_that_the_engine_is_away(loaded: Running) -> None:
    events = loaded.stream("/v1/chat/completions", chat("base", "hello", max_tokens=1_900, ignore_eos=True))
    await anext(events)
    loaded.kill()
    rest: list[Any] = []
    with suppress(aiohttp.ClientError):
        rest = [event async for event in events]
    assert "[DONE]" not in rest
    async with loaded.client() as client:
        assert not await client.health()
        for call in (
            client.loaded(),
            client.unload("intent-v1"),
            client.load("x", Path("/")),
            client.chat("base", [], 1),
        ):
            with pytest.raises(EngineUnavailable) as away:
                await call
            assert away.value.retryable
    assert loaded.process.poll() is not None
