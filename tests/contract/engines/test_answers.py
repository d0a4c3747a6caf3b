"""How every engine answers: whole, in pieces, counted, bounded, repeatable, and 400 for what makes no sense."""

import math
from typing import Any

import pytest

from services.serving.engines import RequestRefused
from tests.contract.engines.running import QUESTIONS, Running, ask, chat

pytestmark = pytest.mark.timeout(1_800)  # the first test waits for its engine


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
    assert await ask(engine, "base", "hello", max_tokens=2)


async def test_the_client_tells_a_bad_request_from_an_engine_that_is_away(engine: Running) -> None:
    async with engine.client() as client:
        with pytest.raises(RequestRefused):
            await client.chat("base", [{"role": "user", "content": "x"}], -1)
