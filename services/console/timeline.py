"""A story as lanes, one per service: when each of them waited, worked and spoke. Pure: positions are shares of the whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.console.causality import Step
from services.console.formats import duration, parsed
from services.console.waiting import Waiting
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

WIDTH = 1_000.0
_NARROWEST = 3.0
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of a lane. `kind`: topic, queue, handling, work, dead, sent, missing; `x` and `width` in 1/1000."""

    kind: str
    x: float
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Lane:
    service: str
    marks: tuple[Mark, ...]
    silent: bool


@dataclass(frozen=True, slots=True)
class Timeline:
    lanes: tuple[Lane, ...]
    ticks: tuple[str, ...]
    """Time since the start, at equal distances."""


@dataclass(frozen=True, slots=True)
class _Piece:
    service: str
    kind: str
    start: datetime
    end: datetime
    label: str


def timeline(
    roots: Sequence[Step], silent: Sequence[str], waiting: Waiting | None, now: datetime
) -> Timeline | None:
    """None for a story without a time in it."""
    pieces = [piece for root in roots for step in root.walk() for piece in _pieces(step, now)]
    if not pieces:
        return None
    if waiting:
        since = now - timedelta(seconds=waiting.waited_seconds)
        pieces.append(_Piece(waiting.service, "missing", since, now, f"expected: {waiting.topic}"))
    start = min(piece.start for piece in pieces)
    span = max((max(piece.end for piece in pieces) - start).total_seconds(), 0.001)

    def mark(piece: _Piece) -> Mark:
        x = (piece.start - start).total_seconds() / span * WIDTH
        width = max((piece.end - piece.start).total_seconds() / span * WIDTH, _NARROWEST)
        return Mark(piece.kind, round(min(x, WIDTH - width), 2), round(width, 2), piece.label)

    spoke = {piece.service for piece in pieces}
    order = [name for name in SERVICES if name in spoke or name in silent]
    order += sorted(spoke - set(SERVICES))
    lanes = tuple(
        Lane(name, tuple(mark(piece) for piece in pieces if piece.service == name), name in silent)
        for name in order
    )
    return Timeline(lanes, tuple(duration(span * place / (_TICKS - 1)) for place in range(_TICKS)))


def _pieces(step: Step, now: datetime) -> Iterator[_Piece]:
    if sent := parsed(step.at):
        yield _Piece(step.source, "sent", sent, sent, f"{step.topic} sent")
    for row in step.handled:
        yield from _handling(step, row)
    for job in step.jobs:
        yield from _job(job, now)


def _handling(step: Step, row: Json) -> Iterator[_Piece]:
    recorded, received, done = (
        parsed(row.get(name)) for name in ("recorded_at", "received_at", "handled_at")
    )
    if recorded and received and done:
        service, dead = row["service"], row["state"] == "dead"
        waited = duration((received - recorded).total_seconds())
        took = duration((done - received).total_seconds())
        yield _Piece(
            service, "topic", recorded, max(received, recorded), f"{step.topic} in the topic for {waited}"
        )
        label = f"{step.topic} died: {row['error']}" if dead else f"{step.topic} handled in {took}"
        yield _Piece(service, "dead" if dead else "handling", received, max(done, received), label)


def _job(job: Json, now: datetime) -> Iterator[_Piece]:
    deferred, started, ended = (parsed(job[name]) for name in ("deferred_at", "started_at", "ended_at"))
    if deferred is None:
        return
    name = f"{job['job']} {job['key']}"
    begun = started or now
    yield _Piece(job["service"], "queue", deferred, max(begun, deferred), f"{name} waited in the queue")
    if started:
        kind = "dead" if job["outcome"] == "failed" else "work"
        until = max(ended or now, started)
        yield _Piece(
            job["service"], kind, started, until, f"{name}: {duration((until - started).total_seconds())}"
        )
