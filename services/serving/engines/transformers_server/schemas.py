"""What may be asked: the part of OpenAI's completion requests that this engine serves. Unknown keys are ignored."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.text import Name, Text

Token = Annotated[int, Field(ge=0)]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]


class Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(Asked):
    include_usage: bool = False


class TextPart(Asked):
    type: Literal["text"]
    text: Text


class ChatMessage(Asked):
    role: Text
    content: Text | list[TextPart] | None = None

    def plain(self) -> dict[str, str]:
        parts = (
            [part.text for part in self.content] if isinstance(self.content, list) else [self.content or ""]
        )
        return {"role": self.role, "content": "".join(parts)}


class Completing(Asked):
    """What both kinds share."""

    model: Text
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=4)] | None = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    ignore_eos: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, if the request says so."""
        return self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        return False

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Completing):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=1)] | None = 0

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.logprobs)


class CompletionRequest(Completing):
    """Without `max_tokens` a completion has 16 tokens, as everywhere."""

    prompt: Text | Annotated[list[Token], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None


class LoadAdapter(Asked):
    lora_name: Name
    lora_path: Annotated[str, Field(pattern=r"^/[^\x00]+$")]


class UnloadAdapter(Asked):
    lora_name: Name
