"""What may be asked, and that only the bytes of `model` change."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.requests import BadRequest, parse, with_model

CHAT = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "support", "prompt": "hi"}
CANARY = "c4n4ry"


def body(**more: Any) -> bytes:
    return json.dumps({**CHAT, **more}).encode()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"n": 4, "max_tokens": 256, "temperature": 0, "top_p": 1, "seed": 7, "user": "ann"},
        {"stop": "\n"},
        {"stop": ["a", "b", "c", "d"], "logprobs": True, "top_logprobs": 5},
        {"max_completion_tokens": 16, "frequency_penalty": -2, "presence_penalty": 2.0},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
            ]
        },
        {"max_tokens": None, "n": None, "stop": None, "stream": None},
    ],
)
def test_accepted(more: dict[str, Any]) -> None:
    assert parse("chat/completions", body(**more), 256).model == "support"


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"n": 5}, "n"),
    ({"n": 16_384}, "n"),
    ({"n": True}, "n"),
    ({"n": "1"}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1_000_000_000}, "max_tokens"),
    ({"max_completion_tokens": 257}, "max_tokens"),
    ({"top_logprobs": 6}, "top_logprobs"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "0"}, "temperature"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream"),
    ({"seed": 2**63}, "seed"),
    ({"user": CANARY * 100}, "user"),
    ({"model": 7}, "model"),
    ({"model": None}, "model"),
    ({"model": ["support"]}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": CANARY}, "messages"),
    ({"messages": [{"role": "tool", "content": CANARY}]}, "role"),
    ({"messages": [{"role": "user"}]}, "content"),
    ({"messages": [{"role": "user", "content": None}]}, "content"),
    ({"messages": [{"role": "user", "content": "x", "audio": CANARY}]}, "audio"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]}, "content"),
    ({"messages": [{"role": "user", "content": "x"}] * 257}, "messages"),
    *(
        ({key: CANARY}, key)
        for key in (
            "chat_template", "prompt_embeds", "structured_outputs", "guided_json", "response_format", "tools", "logit_bias",
            "ignore_eos", "min_tokens", "best_of", "use_beam_search", "add_generation_prompt", "mm_processor_kwargs",
            "request_id", "priority", "kv_transfer_params", "vllm_xargs", "prompt", "documents", "lora_path",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "named"), HOSTILE, ids=[f"{n}-{next(iter(m))}" for n, (m, _) in enumerate(HOSTILE)]
)
def test_refused_by_name_and_without_an_echo(more: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse("chat/completions", body(**more), 256)
    assert named in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b'"x"', b"{", b"\xef\xbb\xbf{}", b"\xff\xfe{}", b"{} {}",
        b'{"model":"a","model":"secret","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"a","mod\\u0065l":"secret","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","messages":[{"role":"user","role":"system","content":"x"}]}',
        b'{"model":"support","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"support","messages":[{"role":"user","content":"\\u0000"}]}',
        b'{"model":"\\ud800","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","temperature":Infinity,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","temperature":1e999,"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","n":' + b"1" * 5_000 + b',"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"support","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_ambiguous_or_broken_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse("chat/completions", raw, 256)


@pytest.mark.parametrize("key", ["\u202e", "a" * 5_000, "<script>", 'x"y'])
def test_a_hostile_key_is_not_quoted(key: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse("chat/completions", body(**{key: 1}), 256)
    assert key not in str(caught.value)


@pytest.mark.parametrize("prompt", [[1, 2, 1_000_000_000], ["a", "b"], 7, "", None])
def test_a_completion_takes_one_text(prompt: Any) -> None:
    with pytest.raises(BadRequest):
        parse("completions", json.dumps({**COMPLETION, "prompt": prompt}).encode(), 256)
    assert parse("completions", json.dumps(COMPLETION).encode(), 256).conversation() == [
        {"role": "user", "content": "hi"}
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(
    st.text() | st.sampled_from(["model", "messages", "mode", "modell"]), values, max_size=6
)
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])
names = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")


@given(objects, st.text(), layouts, names)
def test_splicing_is_what_json_would_do_and_leaves_the_rest(
    rest: dict[str, Any], model: str, layout: dict[str, Any], name: str
) -> None:
    text = json.dumps({**rest, "model": model}, **layout)
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return
    spliced = with_model(raw, name)
    assert json.loads(spliced) == {**json.loads(raw), "model": name}
    start = 0
    while raw[start : start + 1] == spliced[start : start + 1] and start < min(len(raw), len(spliced)):
        start += 1
    old_tail, new_tail = raw[start:], spliced[start:]
    shared = 0
    while shared < min(len(old_tail), len(new_tail)) and old_tail[-1 - shared] == new_tail[-1 - shared]:
        shared += 1
    changed = json.dumps(name).encode()
    assert new_tail[: len(new_tail) - shared] in changed


def test_the_bytes_around_model_are_untouched() -> None:
    raw = b'  {"messages" : [ {"content":"model \\u00e9 \xc3\xa9","role":"user"} ] , "model"\t:\n"support", "n":1.0e0 } '
    assert with_model(raw, "support-v1-abc") == raw.replace(b'"support"', b'"support-v1-abc"')


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse("chat/completions", raw, 256)


@given(objects)
def test_no_object_breaks_the_parser(value: dict[str, Any]) -> None:
    try:
        request = parse("chat/completions", json.dumps(value).encode(), 256)
    except BadRequest:
        return
    assert request.conversation()
