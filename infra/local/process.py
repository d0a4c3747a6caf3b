"""One child process in a group of its own, with its output in a log file."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # `status` and `down` do without what parts need
    from infra.local.part import Launch

MARK = "DRIFTWHEEL_PART"
"""Environment variable every child carries, `<home>|<stack>|<part>`: how a sweep knows whose process it is."""
LOG_LIMIT_BYTES = 10_000_000


class Process:
    """A running child. It is asked to stop alone (it knows its own children best); what is left dies with its group."""

    def __init__(self, launch: "Launch", log: Path, mark: str):
        rotate(log)
        if launch.cpus:
            os.sched_setaffinity(
                0, launch.cpus
            )  # this thread's; the child inherits it before its first instruction
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                launch.command,
                env={**launch.environment, MARK: mark},
                cwd=launch.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=launch.user,
                group=launch.user,
                extra_groups=[] if launch.user is not None else None,
            )
        self.pid = self._popen.pid

    def exit_code(self) -> int | None:
        return self._popen.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None while it still runs after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._popen.wait(seconds)
        return None

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)  # does nothing once the child was reaped

    def kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL the main process alone, as a crash would, and wait until it is gone."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, number: signal.Signals, grace_seconds: float) -> None:
        """Ask it to stop, wait, then SIGKILL what is left of its group."""
        self.send(number)
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(grace_seconds)
        self.kill_group()
        self._popen.wait()


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """Resident memory of each named process with its descendants, in one look at all processes.

    Of a descendant only what it does not share counts, so that one buffer is not counted once per process.
    """
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process)

    def private(pid: int) -> int:
        return sum(_resident(child, shared=False) + private(child.pid) for child in children.get(pid, []))

    result = {}
    for name, pid in roots.items():
        with suppress(psutil.Error):
            result[name] = _resident(psutil.Process(pid), shared=True) + private(pid)
    return result


def _resident(process: psutil.Process, shared: bool) -> int:
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss) - (0 if shared else int(getattr(memory, "shared", 0)))


def marked(home: Path, stack: str | None = None, besides: str | None = None) -> list[psutil.Process]:
    """Processes started for this home: of one stack, or of any stack but `besides`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            owner, _, rest = process.environ().get(MARK, "").partition("|")
            owner_stack = rest.partition("|")[0]
            if owner == str(home) and owner_stack != besides and stack in (None, owner_stack):
                found.append(process)
    return found


def sweep(
    home: Path, stack: str | None = None, besides: str | None = None, grace_seconds: float = 5.0
) -> list[int]:
    """End every process `marked` finds, politely first; returns their pids."""
    found = [p for p in marked(home, stack, besides) if p.pid != os.getpid()]
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    deadline = time.monotonic() + grace_seconds
    psutil.wait_procs(found, timeout=grace_seconds)
    for process in found:
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
    psutil.wait_procs(found, timeout=max(1.0, deadline - time.monotonic()))
    return [p.pid for p in found]


def rotate(log: Path) -> None:
    """Keep one older log when the current one has grown large."""
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))


def tail(log: Path, lines: int = 15) -> str:
    if not log.exists():
        return "(no log)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
