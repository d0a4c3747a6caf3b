"""Each attempt in a process of its own: its memory goes back when it ends, and whatever it does, the worker can end it.

The two share a socket pair. The worker sends the order down; the child sends its pulse up, and last its ending. When the
worker is gone, however it went, the child reads the end of the order's stream and is gone as well.
"""

import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from shared.contracts.envelope import Envelope
from shared.jobs.attempts import Attempt
from shared.jobs.endings import Ending, ending
from shared.jobs.worker import Jobs, Kind, in_process
from shared.telemetry.spans import flush

log = structlog.get_logger()

CONNECTIONS = 2
"""To the database, of a worker and of each of its children; a worker has four more to take jobs."""
PULSE_SECONDS = 2.0
SILENT_SECONDS = 300.0
"""A child without a pulse for so long is frozen. Loading torch on a busy machine takes a minute of it."""
LOOK_SECONDS = 2.0
GRACE_SECONDS = 5.0
_TOGETHER_SECONDS = 3.0
_FIRST_TO_GO = "500"
_PULSE = b"\n"


class InChild:
    """Works on an attempt in a process of its own.

    Args:
        command: starts it; `--attempt KEY NUMBER CHANNEL` is appended.
        scratch: where the folder for the temporary files of each attempt is made, which goes with it; the system's own
            if None.
    """

    def __init__(self, command: Sequence[str], scratch: Path | None = None) -> None:
        self._command = command
        self._scratch = scratch

    async def __call__(self, kind: Kind, attempt: Attempt, args: Mapping[str, Any]) -> Ending:
        try:
            with _folder(self._scratch) as folder:
                ours, theirs = socket.socketpair()
                reader, writer = await asyncio.open_connection(sock=ours)
                with theirs, closing(writer):
                    child = await self._start(attempt, theirs.fileno(), folder)
                    theirs.close()
                    try:
                        writer.write(_order(kind, attempt, args))
                        return await _first(_told(reader), _unwanted(attempt)) or await _died(child)
                    finally:
                        await _end(child)
        except OSError as error:
            return Ending("outage", f"No process could be started for it: {error}", type(error).__name__)

    async def _start(self, attempt: Attempt, channel: int, folder: str) -> Process:
        child = await asyncio.create_subprocess_exec(
            *self._command,
            *("--attempt", attempt.key, str(attempt.number), str(channel)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[channel],
            env=os.environ | {"TMPDIR": folder},
        )
        log.info("job.process", pid=child.pid)
        return child


def _folder(scratch: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="driftwheel-job-", dir=scratch, ignore_cleanup_errors=True)


def _order(kind: Kind, attempt: Attempt, args: Mapping[str, Any]) -> bytes:
    cause = attempt.cause.to_json() if attempt.cause else None
    return json.dumps({"kind": kind.name, "cause": cause, "args": args}).encode() + b"\n"


async def _first(*works: Any) -> Ending | None:
    """What the first of them returns; the others are stopped."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        found: Ending | None = done.pop().result()
        return found
    finally:
        for task in tasks:
            task.cancel()


async def _told(reader: asyncio.StreamReader) -> Ending | None:
    """The ending that the child tells; None if it went without a word."""
    try:
        while line := await asyncio.wait_for(reader.readline(), SILENT_SECONDS):
            if line != _PULSE:
                return Ending(**json.loads(line))
    except TimeoutError:
        return Ending("crash", f"Its process gave no sign of life for {SILENT_SECONDS:g} s.", "Crashed")
    except OSError:
        pass
    return None


async def _unwanted(attempt: Attempt) -> Ending:
    """Returns when the attempt was cancelled or superseded. A child at its work may be a long way from asking."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await attempt.check()
        except Exception as error:  # noqa: BLE001 (each is classified)
            end = ending(error)
            if end.kind not in ("outage", "retry"):  # a database that is away says nothing
                return end


async def _died(child: Process) -> Ending:
    code = await child.wait()
    if -code in (signal.SIGTERM, signal.SIGINT):
        await asyncio.sleep(
            _TOGETHER_SECONDS
        )  # who stops all processes of a unit stops us as well: no crash then
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Ending("crash", f"Its process {how} (out of memory?).", "Crashed")


async def _end(child: Process) -> None:
    """SIGTERM, and what does not heed it SIGKILL."""
    with suppress(ProcessLookupError):
        child.terminate()
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), GRACE_SECONDS)
    finally:
        if child.returncode is None:
            child.kill()
    await child.wait()


def work(jobs: Jobs, key: str, number: int, channel: int) -> None:
    """The child's side: work on one attempt, and tell how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with suppress(OSError):  # where there is such a file: of all processes of ours this one
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    link = socket.socket(fileno=channel)
    order = json.loads(link.makefile("rb").readline())
    threading.Thread(target=_end_with_the_worker, args=(link,), daemon=True).start()
    cause = Envelope.from_json(order["cause"]) if order["cause"] else None
    attempt = Attempt(jobs.db, key, number, cause)
    end = asyncio.run(_with_pulse(jobs.kind(order["kind"]), attempt, order["args"], link))
    flush()
    link.sendall(json.dumps(asdict(end)).encode() + b"\n")


async def _with_pulse(kind: Kind, attempt: Attempt, args: Mapping[str, Any], link: socket.socket) -> Ending:
    async def beat() -> None:
        while True:
            link.sendall(_PULSE)
            await asyncio.sleep(PULSE_SECONDS)

    pulse = asyncio.create_task(beat())
    try:
        return await in_process(kind, attempt, args)
    finally:
        pulse.cancel()


def _end_with_the_worker(link: socket.socket) -> None:
    with suppress(OSError):
        link.recv(1)
    os._exit(1)
