"""What an engine's answer was worth: an answer counts only with a finish_reason and without an error.

An engine that is killed in the middle of a stream still sends `[DONE]`, so neither the status nor the end tells.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from shared.contracts.text import Json

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """The first choice's text and the tokens used (estimated as one per chunk where a stream reports none)."""

    outcome: Literal["ok", "error"]
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


def read_whole(body: bytes) -> Answer:
    """An answer that came in one piece."""
    try:
        data = json.loads(body)
    except ValueError:
        return Answer("error", error="not_json")
    if not isinstance(data, dict) or "error" in data:
        return Answer("error", error="engine_error")
    choices = _choices(data)
    if not choices or not all(choice.get("finish_reason") for choice in choices):
        return Answer("error", error="unfinished")
    first = choices[0]
    message = first.get("message")
    text = message.get("content") if isinstance(message, dict) else first.get("text")
    return Answer("ok", text if isinstance(text, str) else "", *_usage(data))


def read_stream(raw: bytes) -> Answer:
    """An answer that came as server-sent events, after its end."""
    parts: list[str] = []
    finished: dict[int, bool] = {}
    usage = (0, 0)
    for event in events(raw):
        if "error" in event:
            return Answer("error", error="engine_error")
        for choice in _choices(event):
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            finished[index] = finished.get(index, False) or bool(choice.get("finish_reason"))
            if index == 0 and (text := _text(choice)):
                parts.append(text)
        usage = _usage(event) if isinstance(event.get("usage"), dict) else usage
    if not finished or not all(finished.values()):
        return Answer("error", error="unfinished")
    prompt, completion = usage
    return Answer("ok", "".join(parts), prompt, completion or len(parts))


def events(raw: bytes) -> list[Json]:
    """The JSON objects of a stream; a line that is none counts as an error of the engine."""
    found: list[Json] = []
    for line in raw.replace(b"\r\n", b"\n").split(b"\n"):
        if not line.startswith(b"data:") or line[5:].strip() in (b"", b"[DONE]"):
            continue
        try:
            event = json.loads(line[5:])
        except ValueError:
            event = None
        found.append(event if isinstance(event, dict) else {"error": "not_json"})
    return found


def starts_with_error(first_chunk: bytes) -> bool:
    """True if the stream fails in its first complete event, before any text was seen."""
    complete = first_chunk.rpartition(b"\n")[0]
    return any("error" in event for event in events(complete)[:1])


def has_text(chunk: bytes) -> bool:
    """True if a piece of a stream carries text; the first events only name the role."""
    return any(_text(choice) for event in events(chunk) for choice in _choices(event))


def error_event(message: str, code: str) -> bytes:
    """How a stream that has begun tells its reader that it failed; no `[DONE]` follows."""
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def _text(choice: Json) -> str:
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _choices(data: Json) -> list[Json]:
    choices = data.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _usage(data: Json) -> tuple[int, int]:
    usage: Any = data.get("usage")
    if not isinstance(usage, dict):
        return (0, 0)
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, completion = (count if isinstance(count, int) and count >= 0 else 0 for count in counts)
    return (prompt, completion)
