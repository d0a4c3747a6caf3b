"""Detectors run in a child process: a slow or greedy one cannot stall the event loop, and its memory is given back.

The child reads one JSON line per request and answers one line. It ends when its standard input does, so it never
outlives the monitor, not even one that was killed.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import IO

from services.monitor.detectors import DETECTORS, Measurement, NotMeasurableError
from shared.contracts.errors import Unavailable

_LONGEST_ANSWER = 64 * 1024 * 1024


class DetectorProcess:
    """Runs detectors one at a time in a child that starts on demand and ends after a while without work."""

    def __init__(self, timeout_seconds: float, idle_seconds: float) -> None:
        self._timeout = timeout_seconds
        self._idle = idle_seconds
        self._lock = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._rest: asyncio.TimerHandle | None = None

    async def measure(
        self, detector: str, reference: Sequence[str], current: Sequence[str], min_score: float
    ) -> Measurement:
        """Run a detector.

        Raises:
            NotMeasurableError: there is too little in the samples.
            Unavailable: the child died or took too long; another try starts a fresh one.
        """
        samples = {"reference": list(reference), "current": list(current), "min_score": min_score}
        request = json.dumps({"detector": detector, **samples})
        async with self._lock:
            if self._rest:
                self._rest.cancel()
            try:
                answer = json.loads(await asyncio.wait_for(self._ask(request.encode()), self._timeout))
            except (TimeoutError, ConnectionError, ValueError, asyncio.CancelledError) as error:
                await self._kill()
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise Unavailable(
                    f"The detector {detector} died or took too long.", "It is tried again."
                ) from error
            self._rest = asyncio.get_running_loop().call_later(self._idle, self._let_go)
        if "missing" in answer:
            raise NotMeasurableError(answer["missing"])
        if "broken" in answer:
            raise RuntimeError(f"the detector {detector} failed: {answer['broken']}")
        return Measurement(**answer)

    async def _ask(self, request: bytes) -> bytes:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.monitor.detectors.process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LONGEST_ANSWER,
                # One thread: it shares the machine with services that answer people.
                env={**_without_settings(), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"},
            )
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(request + b"\n")
        await child.stdin.drain()
        line = await child.stdout.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the detector process ended")
        return line

    def _let_go(self) -> None:
        """Close the child's input: it ends by itself. The next request starts another."""
        child, self._child = self._child, None
        if child and child.stdin:
            child.stdin.close()

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def close(self) -> None:
        if self._rest:
            self._rest.cancel()
        await self._kill()


def _without_settings() -> dict[str, str]:
    """The environment without the service's settings: the child needs no password."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DRIFTWHEEL_MONITOR__")}


def answer(request: bytes) -> bytes:
    """One request, one line: a measurement, what is missing, or what broke."""
    asked = json.loads(request)
    try:
        measured = DETECTORS[asked["detector"]](asked["reference"], asked["current"], asked["min_score"])
    except NotMeasurableError as error:
        return json.dumps({"missing": str(error)}).encode()
    except Exception as error:  # noqa: BLE001 (told to the parent, which decides)
        return json.dumps({"broken": f"{type(error).__name__}: {error}"[:500]}).encode()
    fields = {name: getattr(measured, name) for name in ("score", "bar", "report", "page")}
    return json.dumps(fields, allow_nan=False).encode()


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    for line in requests:
        answers.write(answer(line) + b"\n")
        answers.flush()


if __name__ == "__main__":
    os.nice(5)  # answers to people come first
    protocol = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not enter the protocol
    serve(sys.stdin.buffer, protocol)
