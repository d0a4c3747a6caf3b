"""When an answer counts as one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.answers import Answer, error_event, has_text, read_stream, read_whole, starts_with_error


def whole(**more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
    return json.dumps(
        {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, **more}
    ).encode()


def chunk(text: str | None = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    data = {"choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
FAILED = error_event("The engine stopped.", "engine_error")


def test_a_whole_answer() -> None:
    assert read_whole(whole()) == Answer("ok", "yes", 7, 2)
    text = {"choices": [{"index": 0, "text": "yes", "finish_reason": "length"}]}
    assert read_whole(json.dumps(text).encode()) == Answer("ok", "yes", 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        whole(choices=[]),
        whole(error={"message": "x"}),
        whole(choices=[{"index": 0}]),
    ],
)
def test_a_whole_answer_that_is_none(body: bytes) -> None:
    assert read_whole(body).outcome == "error"


def test_a_stream() -> None:
    raw = chunk("") + chunk("ye") + chunk("s") + chunk(finish="stop") + DONE
    assert read_stream(raw) == Answer("ok", "yes", 0, 2)
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\r\n\r\n'
    assert read_stream(raw.replace(DONE, usage + DONE)) == Answer("ok", "yes", 7, 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        DONE,
        chunk("ye") + DONE,
        chunk("ye") + FAILED + DONE,
        chunk("ye") + chunk(finish="stop") + FAILED,
        chunk("ye") + b"data: {broken\n\n" + chunk(finish="stop"),
        chunk("a", "stop", 0) + chunk("b", None, 1) + DONE,
    ],
)
def test_a_stream_that_was_cut_is_an_error_even_with_done(raw: bytes) -> None:
    assert read_stream(raw).outcome == "error"


def test_the_first_token_is_the_first_text() -> None:
    assert has_text(chunk("x"))
    assert has_text(chunk("") + chunk("x"))
    assert not has_text(chunk(""))
    assert not has_text(chunk(finish="stop") + DONE)


def test_only_an_error_before_any_text_allows_another_try() -> None:
    assert starts_with_error(FAILED)
    assert not starts_with_error(chunk("x"))
    assert not starts_with_error(chunk("x") + FAILED)
    assert not starts_with_error(b": ping\n\n" + chunk("x"))
    assert not starts_with_error(b'data: {"choi')


@given(st.binary(max_size=300))
def test_no_bytes_break_the_readers(raw: bytes) -> None:
    assert read_whole(raw).outcome in ("ok", "error")
    assert read_stream(raw).outcome in ("ok", "error")
    assert isinstance(starts_with_error(raw), bool)
    assert isinstance(has_text(raw), bool)
