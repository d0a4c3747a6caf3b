"""How it is answered: OpenAI's shapes for chat and text, whole and in pieces, and for errors."""

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.serving.engines.transformers_server.answers import Finish, Piece
from services.serving.engines.transformers_server.sampling import Choice

Json = dict[str, Any]


@dataclass
class Text:
    """One whole text."""

    text: str = ""
    choices: list[Choice] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.choices += piece.choices
        self.finish = piece.finish


class Reply(Protocol):
    """One kind of completion."""

    def opening(self, index: int) -> Json | None:
        """The first chunk of choice `index`, if this kind has one."""

    def chunk(self, index: int, piece: Piece, *, logprobs: bool) -> Json: ...

    def whole(self, texts: Sequence[Text], usage: Json, *, logprobs: bool) -> Json: ...

    def usage(self, usage: Json) -> Json:
        """The last chunk, for those who asked for it."""


_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class _Base:
    def __init__(self, model: str, decode: Callable[[list[int]], str], request_id: str | None = None) -> None:
        """`decode` turns token ids into text, for log-probabilities; the id of the answer is the request's, as vLLM's is."""
        self._model = model
        self._decode = decode
        self._id = request_id if request_id and _ID.fullmatch(request_id) else uuid.uuid4().hex
        self._created = int(time.time())

    def _frame(self, kind: str, prefix: str, choices: list[Json], **more: Any) -> Json:
        common = {
            "id": f"{prefix}-{self._id}",
            "object": kind,
            "created": self._created,
            "model": self._model,
        }
        return {**common, "choices": choices, **more}


class ChatReply(_Base):
    def opening(self, index: int) -> Json | None:
        return self._chunk(index, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, index: int, piece: Piece, *, logprobs: bool) -> Json:
        delta = {"content": piece.text} if piece.text or not piece.finish else {}
        return self._chunk(index, delta, self._logprobs(piece.choices) if logprobs else None, piece.finish)

    def whole(self, texts: Sequence[Text], usage: Json, *, logprobs: bool) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text.text, "refusal": None},
                "logprobs": self._logprobs(text.choices) if logprobs else None,
                "finish_reason": text.finish,
            }
            for index, text in enumerate(texts)
        ]
        return self._frame("chat.completion", "chatcmpl", choices, usage=usage)

    def usage(self, usage: Json) -> Json:
        return self._frame("chat.completion.chunk", "chatcmpl", [], usage=usage)

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, finish: Finish | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._frame("chat.completion.chunk", "chatcmpl", [choice])

    def _logprobs(self, chosen: Sequence[Choice]) -> Json:
        content = []
        for choice in chosen:
            text = self._decode([choice.token])
            one = {"token": text, "logprob": choice.logprob, "bytes": list(text.encode())}
            content.append({**one, "top_logprobs": []})
        return {"content": content}


class TextReply(_Base):
    def opening(self, index: int) -> Json | None:
        return None

    def chunk(self, index: int, piece: Piece, *, logprobs: bool) -> Json:
        chosen = self._logprobs(piece.choices) if logprobs else None
        choice = {"index": index, "text": piece.text, "logprobs": chosen, "finish_reason": piece.finish}
        return self._frame("text_completion", "cmpl", [choice])

    def whole(self, texts: Sequence[Text], usage: Json, *, logprobs: bool) -> Json:
        choices = [
            {
                "index": index,
                "text": text.text,
                "logprobs": self._logprobs(text.choices) if logprobs else None,
                "finish_reason": text.finish,
            }
            for index, text in enumerate(texts)
        ]
        return self._frame("text_completion", "cmpl", choices, usage=usage)

    def usage(self, usage: Json) -> Json:
        return self._frame("text_completion", "cmpl", [], usage=usage)

    def _logprobs(self, chosen: Sequence[Choice]) -> Json:
        tokens = [self._decode([choice.token]) for choice in chosen]
        values = [choice.logprob for choice in chosen]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": None}


def count(prompt: int, completion: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def error(message: str, kind: str, code: int, param: str | None = None) -> Json:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
