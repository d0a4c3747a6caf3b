"""How an attempt at a job ended, and what follows from that: pure rules.

What is not the job's doing never counts against it: an outage of a part is waited for without end, and a worker that
is told to stop hands the job on. What may be its own doing is bounded, counted from the job's last progress.
"""

from dataclasses import dataclass
from typing import Literal

from shared.contracts.errors import Cancelled, DriftwheelError, Superseded, Unavailable
from shared.delivery.failures import classify

Kind = Literal["done", "superseded", "cancelled", "outage", "retry", "crash", "failed"]
MAX_CRASHES = 3
"""Attempts in a row that may die in silence without any progress; then the job itself must be the cause."""
MAX_RETRIES = 12
"""Passing errors in a row without any progress, about six minutes of them."""
_LONGEST_PAUSE = {"outage": 30.0, "retry": 60.0, "crash": 60.0}


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended, in words that people read. `name` is the class of the error, for logs."""

    kind: Kind
    reason: str = ""
    name: str = ""


def ending(error: Exception) -> Ending:
    """Of an attempt that raised."""
    name = type(error).__name__
    reason = str(error) if isinstance(error, DriftwheelError) else f"{name}: {error}"
    reason = reason.replace("\x00", "")[:2_000]
    match error:
        case Superseded():
            return Ending("superseded", reason, name)
        case Cancelled():
            return Ending("cancelled", error.detail, name)
        case MemoryError():
            return Ending("failed", "It needs more memory than one job may have.", "MemoryError")
    failure = classify(error)
    if failure.kind == "outage" and (isinstance(error, Unavailable) or not failure.bounded):
        return Ending("outage", reason, name)
    return Ending("retry" if failure.passes else "failed", reason, name)


def given_up(crashes: int) -> Ending | None:
    """Why a job is not even tried again, or None."""
    if crashes < MAX_CRASHES:
        return None
    return Ending(
        "failed",
        f"Its process died {crashes} times in a row without getting anywhere with it. "
        "Look for its end in the log (out of memory?).",
        "Crashed",
    )


def again(end: Ending, retries: int) -> bool:
    """Whether the job is tried again.

    Args:
        retries: passing errors since the last progress, before this one.
    """
    return end.kind in ("outage", "crash") or (end.kind == "retry" and retries + 1 < MAX_RETRIES)


def pause(end: Ending, times: int) -> float:
    """Seconds until the next try, after `times` (≥ 1) such endings in a row."""
    return min(float(2 ** min(times, 6)), _LONGEST_PAUSE.get(end.kind, 60.0))
