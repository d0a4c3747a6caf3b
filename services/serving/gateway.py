"""The request path: choose a version, pass the bytes on, pass the answer back, remember it. No database, no Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.serving import metrics
from services.serving.answers import Answer, error_event, has_text, read_stream, read_whole
from services.serving.attempts import Asked, Attempt, served
from services.serving.incoming import cause_of, read_body, unless_gone
from services.serving.live import Live
from services.serving.predictions import PredictionLog
from services.serving.requests import BadRequest, ContextTooLong, parse, with_model
from services.serving.routing import Arm, Choice
from services.serving.settings import Settings
from services.serving.upstream import EngineFailure, EngineRefused, Stream, Upstream
from shared.contracts.errors import Overloaded, Unavailable
from shared.http.auth import Caller
from shared.service.clock import Clock

MAX_KEPT_BYTES = 16_777_216
"""Bytes of one stream that are kept to be logged; a longer one counts as unfinished."""


class Gateway:
    """Answers `/v1/chat/completions` and `/v1/completions`."""

    def __init__(
        self, settings: Settings, live: Live, upstream: Upstream, predictions: PredictionLog, clock: Clock
    ) -> None:
        self._settings = settings
        self._live = live
        self._upstream = upstream
        self._predictions = predictions
        self._clock = clock
        self._in_flight = 0

    async def answer(self, kind: str, request: Request, caller: Caller) -> Response:
        """Pass one request to the version it belongs to.

        Raises:
            BadRequest, TooLarge, NotFound: the caller's mistake.
            Overloaded, Unavailable: try again; nothing was sent yet. After the first byte a stream says so itself.
        """
        body = await read_body(request, self._settings.max_body_bytes)
        parsed = parse(kind, body, self._settings.max_answer_tokens)
        choice = self._live.table.choose(parsed.model, caller.subject, parsed.user or "")
        caller.demand("chat", choice.model)
        asked = Asked(kind, body, parsed, choice.model, cause_of(request), caller.subject)
        if self._in_flight >= self._settings.max_in_flight:
            metrics.SHED.labels("request").inc()
            raise Overloaded("Too many requests are being answered.", "Try again in a moment.")
        return await unless_gone(request, self._first_that_answers(asked, choice))

    async def _first_that_answers(self, asked: Asked, choice: Choice) -> Response:
        """The target's answer or its fallback's; never another try after the first byte."""
        attempts = [Attempt(asked, choice.target, choice.arm, choice.rollout_id)]
        failed: list[tuple[Attempt, EngineFailure]] = []
        for attempt in attempts:
            try:
                response = await self._attempt(attempt)
            except EngineFailure as failure:
                failed.append((attempt, failure))
                self._notice(attempt, failure)
                if choice.fallback is not None and len(attempts) == 1:
                    arm: Arm = "champion" if choice.fallback.version else "base"
                    attempts.append(Attempt(asked, choice.fallback, arm, None))
            else:
                self._settle(failed, answered=True)
                return response
        self._settle(failed, answered=False)
        if all(failure.code == "overloaded" for _, failure in failed):
            raise Overloaded("The engine is overloaded.", "Try again in a moment.")
        raise Unavailable("The engine does not answer.", "Try again in a few seconds.")

    async def _attempt(self, attempt: Attempt) -> Response:
        asked = attempt.asked
        raw = with_model(asked.body, attempt.target.engine_name)
        traceparent = asked.cause.traceparent
        self.enter(attempt)
        try:
            if asked.parsed.stream:
                stream = await self._upstream.stream(asked.kind, raw, attempt.answer_id, traceparent)
                self.enter(attempt)  # the stream's own; it leaves at its end
                return _Streamed(self, attempt, stream)
            content = await self._upstream.whole(asked.kind, raw, attempt.answer_id, traceparent)
            answer = read_whole(content)
            if answer.outcome == "error":
                raise EngineFailure(answer.error or "engine_error", fault=True)
        except EngineRefused as refused:
            raise _refusal(refused) from None
        except asyncio.CancelledError:
            self.record(attempt, None)
            raise
        finally:
            self.leave(attempt)
        self.record(attempt, answer)
        return Response(content, media_type="application/json", headers=attempt.headers())

    def enter(self, attempt: Attempt) -> None:
        """While a request is in flight its adapter is not unloaded."""
        self._in_flight += 1
        self._live.in_flight[attempt.target.engine_name] += 1
        metrics.IN_FLIGHT.set(self._in_flight)

    def leave(self, attempt: Attempt) -> None:
        self._in_flight -= 1
        self._live.in_flight[attempt.target.engine_name] -= 1
        metrics.IN_FLIGHT.set(self._in_flight)

    def _notice(self, attempt: Attempt, failure: EngineFailure) -> None:
        if failure.code == "connection":
            self._live.doubt_engine()
        elif failure.code == "not_loaded":
            self._live.lost_adapter(attempt.target.engine_name)

    def _settle(self, failed: list[tuple[Attempt, EngineFailure]], *, answered: bool) -> None:
        """Log failed attempts. A rollout is charged only with what is a version's own doing: not with an engine that
        is away, nor where the champion failed at the same request."""
        for attempt, failure in failed:
            if not failure.fault or (len(failed) > 1 and not answered):
                attempt.rollout_id = None
            if attempt.rollout_id and answered:
                self._live.challenger_failed(attempt.rollout_id)
            self.record(attempt, Answer("error", error=failure.code))

    def record(self, attempt: Attempt, answer: Answer | None) -> None:
        """Count and log one attempt; None means that the caller went away."""
        version, seconds = attempt.target.engine_name, time.monotonic() - attempt.started
        first = attempt.first_token - attempt.started if attempt.first_token else None
        outcome = answer.outcome if answer else "cancelled"
        metrics.observe(version, attempt.arm, outcome, seconds, first, answer)
        if outcome == "ok" and attempt.arm == "challenger" and attempt.rollout_id:
            self._live.challenger_answered(attempt.rollout_id)
        self._predictions.add(served(attempt, answer, seconds, first, self._clock.now()))


class _Streamed(StreamingResponse):
    """Pieces passed on as they come; a copy is read after the last one. Its end is noticed even before its start."""

    def __init__(self, gateway: Gateway, attempt: Attempt, stream: Stream) -> None:
        headers = {**attempt.headers(), "cache-control": "no-cache", "x-accel-buffering": "no"}
        self._gateway, self._attempt, self._stream = gateway, attempt, stream
        self._answer: Answer | None = None
        super().__init__(self._relay(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
            self._gateway.leave(self._attempt)
            self._gateway.record(self._attempt, self._answer)

    async def _relay(self) -> AsyncIterator[bytes]:
        kept = bytearray()
        try:
            async for chunk in self._stream.chunks():
                if len(kept) < MAX_KEPT_BYTES:
                    kept += chunk
                if self._attempt.first_token is None and has_text(chunk):
                    self._attempt.first_token = time.monotonic()
                yield chunk
            self._answer = read_stream(bytes(kept))
        except EngineFailure as failure:
            self._answer = Answer("error", error=failure.code)
            yield error_event("The engine stopped in the middle of the answer.", failure.code)


def _refusal(refused: EngineRefused) -> BadRequest:
    if refused.too_long:
        return ContextTooLong(
            "Prompt and answer are longer than the model's context.", "Send less, or ask for less."
        )
    return BadRequest("The engine refused the request.", "Check the values against the OpenAI API.")
