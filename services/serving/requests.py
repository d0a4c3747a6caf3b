"""What a completion request may contain, and how its `model` is replaced without touching another byte."""

import json
import re
from http import HTTPStatus
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.contracts.errors import Invalid, Poison
from shared.contracts.strict_json import strict_json

MAX_MESSAGES = 256
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SPACE = re.compile(r"[ \t\n\r]*")

Small = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]


class BadRequest(Invalid):
    """The request is wrong in itself; OpenAI's clients expect 400 for that."""

    status = HTTPStatus.BAD_REQUEST


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


class _Strict(BaseModel):
    """Checked, never re-serialised: the engine gets the caller's own bytes."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class TextPart(_Strict):
    """Text only: a URL in a request is never fetched."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=64)] | None = None

    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class StreamOptions(_Strict):
    include_usage: bool = False


class Common(_Strict):
    """Keys of both kinds; anything else is refused, because an unknown key may cost or open anything."""

    model: Annotated[str, Field(min_length=1, max_length=100)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None
    n: Annotated[int, Field(ge=1, le=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Small | None = None
    presence_penalty: Small | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    def tokens(self) -> int:
        return self.max_tokens or 0

    def conversation(self) -> list[dict[str, str]]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class ChatRequest(Common):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def tokens(self) -> int:
        return max(self.max_tokens or 0, self.max_completion_tokens or 0)

    def conversation(self) -> list[dict[str, str]]:
        return [message.plain() for message in self.messages]


class CompletionRequest(Common):
    prompt: Annotated[str, Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def conversation(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


KINDS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "chat/completions": ChatRequest,
    "completions": CompletionRequest,
}
"""Completion routes under /v1."""


def parse(kind: str, body: bytes, max_tokens: int) -> ChatRequest | CompletionRequest:
    """Check a body.

    Args:
        kind: a key of KINDS.
        max_tokens: the most tokens one answer may have.

    Raises:
        BadRequest: ambiguous JSON, an unknown or wrong key, a value beyond its cap. Values are never quoted.
    """
    try:
        value = strict_json(body)
        if not isinstance(value, dict):
            raise BadRequest("The body is not a JSON object.", 'Send {"model": ..., "messages": [...]}.')
        request = KINDS[kind].model_validate(value)
    except Poison as error:
        raise BadRequest(error.detail, error.next_step) from None
    except ValidationError as error:
        raise BadRequest(_explain(error), "See the OpenAI API for the shape of each key.") from None
    if request.tokens() > max_tokens:
        raise BadRequest(f"max_tokens is over {max_tokens}.", "Ask for a shorter answer.")
    return request


def _explain(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join(part if _KEY.fullmatch(part) or part.isdigit() else "?" for part in path) or "the body"
    if first["type"] == "extra_forbidden":
        return f"The key {where} is not supported here."
    return f"{where}: {first['msg']}."


def with_model(body: bytes, name: str) -> bytes:
    """The same bytes with another value of the top-level `model`.

    Args:
        body: a JSON object that `parse` accepted, so each key is there once.
    """
    text = body.decode("utf-8")
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)  # past the colon
        _, end = decoder.raw_decode(text, start)
        if key == "model":
            return f"{text[:start]}{json.dumps(name)}{text[end:]}".encode()
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    raise BadRequest("The body has no model.", "Name one; list them: GET /v1/models.")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
