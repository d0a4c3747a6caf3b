"""What every engine promises. The last tests of this file leave the engine dead."""

import asyncio
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.serving.engines import AdapterRefused, EngineUnavailable, RequestRefused
from tests.contract.engines.running import Running, chat

QUESTIONS = ("hello there", "what is your name?", "please tell me about the weather in Paris in 2023")
NAMES = ("base", "intent-v1", "intent-v2", "mail-v1")


@pytest.fixture
async def loaded(engine: Running, adapters: dict[str, Path]) -> Running:
    """The engine with all adapters."""
    async with engine.client() as client:
        for name, folder in adapters.items():
            await client.load(name, folder)
    return engine


@pytest.fixture(scope="session")
def expected(tiny_base: Path, adapters: dict[str, Path]) -> dict[tuple[str, str], str]:
    from tests.contract.engines.adapters import Reference

    reference = Reference(tiny_base, adapters)
    return {(name, question): reference.chat(name, question, 12) for name in NAMES for question in QUESTIONS}


async def _text(engine: Running, model: str, question: str, **more: Any) -> str:
    status, answer = await engine.post("/v1/chat/completions", chat(model, question, **more))
    assert status == 200, answer
    return str(answer["choices"][0]["message"]["content"])


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
    calls = [_text(loaded, *key, max_tokens=limit) for key, limit in zip(wanted, limits, strict=True)]
    for (name, question), limit, text in zip(wanted, limits, await asyncio.gather(*calls), strict=True):
        assert text, (name, question, limit)
        assert expected[name, question].startswith(text)
    full = await asyncio.gather(*(_text(loaded, *key, max_tokens=12) for key in wanted))
    assert full == [expected[key] for key in wanted]


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


@pytest.mark.parametrize("kind", ["chat/completions", "completions"])
async def test_a_stream_is_the_whole_answer_in_pieces(loaded: Running, kind: str) -> None:
    body = chat("intent-v1", "hello there", max_tokens=10)
    if kind == "completions":
        body = {"model": "intent-v1", "prompt": "hello there", "temperature": 0, "max_tokens": 10}
    _, whole = await loaded.post(f"/v1/{kind}", body)
    usage = {"stream_options": {"include_usage": True}}
    *events, counted, done = [event async for event in loaded.stream(f"/v1/{kind}", body | usage)]
    assert done == "[DONE]"
    assert counted["choices"] == []
    assert _counts(counted) == _counts(whole)
    choices = [event["choices"][0] for event in events]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert choices[-1]["finish_reason"]
    if kind == "completions":
        assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    else:
        assert choices[0]["delta"]["role"] == "assistant"
        pieces = "".join(choice["delta"].get("content") or "" for choice in choices)
        assert pieces == whole["choices"][0]["message"]["content"]


def _counts(answer: dict[str, Any]) -> tuple[int, int, int]:
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]


async def test_usage_counts_tokens(engine: Running) -> None:
    _, short = await engine.post("/v1/chat/completions", chat("base", "hello", max_tokens=3))
    _, longer = await engine.post("/v1/chat/completions", chat("base", "hello 123", max_tokens=5))
    prompt, completion, total = _counts(short)
    assert (completion, total) == (3, prompt + 3)
    assert _counts(longer) == (prompt + 4, 5, prompt + 9), "a space and three digits are four tokens"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_answer_before_it(
    engine: Running, expected: dict[tuple[str, str], str], stream: bool
) -> None:
    text = expected["base", QUESTIONS[0]]
    stop = text[len(text) // 2 :][:4]
    body = chat("base", QUESTIONS[0], max_tokens=12, stop=["never said", stop])
    if stream:
        events = [event async for event in engine.stream("/v1/chat/completions", body)]
        choices = [event["choices"][0] for event in events[:-1]]
        got = "".join(choice["delta"].get("content") or "" for choice in choices)
        finish = choices[-1]["finish_reason"]
    else:
        _, answer = await engine.post("/v1/chat/completions", body)
        got, finish = answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]
    assert got == text[: text.index(stop)]
    assert finish == "stop"


async def test_max_tokens_is_the_length_of_the_answer(engine: Running) -> None:
    for limit in (1, 2, 7):
        _, answer = await engine.post(
            "/v1/chat/completions", chat("base", "hello", max_tokens=limit, ignore_eos=True)
        )
        assert answer["usage"]["completion_tokens"] == limit
        assert answer["choices"][0]["finish_reason"] == "length"


async def test_a_seed_repeats_a_drawn_answer_and_n_are_drawn_apart(engine: Running) -> None:
    body = chat("base", "hello", max_tokens=12) | {"temperature": 1.0, "seed": 7, "n": 3}
    answers = [(await engine.post("/v1/chat/completions", body))[1] for _ in range(2)]
    first, again = ([choice["message"]["content"] for choice in answer["choices"]] for answer in answers)
    assert first == again
    assert len(set(first)) == 3
    _, other = await engine.post("/v1/chat/completions", body | {"seed": 70, "n": 1})
    assert other["choices"][0]["message"]["content"] not in first
    assert _counts(answers[0])[1] == 36


async def test_log_probabilities_are_those_of_the_chosen_tokens(engine: Running) -> None:
    _, answer = await engine.post("/v1/chat/completions", chat("base", "hello", max_tokens=5, logprobs=True))
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 5
    assert all(math.isfinite(token["logprob"]) and token["logprob"] < 0 for token in content)
    assert "".join(token["token"] for token in content) == answer["choices"][0]["message"]["content"]


BAD: dict[str, dict[str, Any] | bytes] = {
    "no JSON": b"{nope",
    "no messages": chat("base", "x") | {"messages": []},
    "message of another type": chat("base", "x") | {"messages": "hello"},
    "max_tokens 0": chat("base", "x", max_tokens=-1),
    "max_tokens beyond the context": chat("base", "x", max_tokens=1_000_000),
    "prompt beyond the context": chat("base", "x " * 5_000, max_tokens=1),
    "n beyond 4": chat("base", "x", max_tokens=1, n=5),
    "temperature below 0": chat("base", "x", max_tokens=1) | {"temperature": -1},
    "temperature NaN": b'{"model":"base","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "top_p 0": chat("base", "x", max_tokens=1, top_p=0),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_400_and_the_next_request_works(engine: Running, case: str) -> None:
    status, answer = await engine.post("/v1/chat/completions", BAD[case])
    assert status == 400, answer
    assert answer["error"]["message"]
    assert await _text(engine, "base", "hello", max_tokens=2)


async def test_the_client_tells_a_bad_request_from_an_engine_that_is_away(engine: Running) -> None:
    async with engine.client() as client:
        with pytest.raises(RequestRefused):
            await client.chat("base", [{"role": "user", "content": "x"}], -1)


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
    assert await _text(engine, "base", "hello", max_tokens=2)


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
            assert await _text(loaded, "base", question, max_tokens=12) == expected["base", question]


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
