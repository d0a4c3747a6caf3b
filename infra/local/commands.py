"""What `driftwheel up`, `down` and `status` do. Each returns a dict (for `--json`) and tells its progress to `say`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.markup import escape

from infra.local import state
from infra.local.process import marked, rotate, sweep, tail
from infra.local.state import UP, AlreadyRunning

if TYPE_CHECKING:  # loaded where it is used: `status` and `down` do without
    from infra.local.settings import LocalSettings

Say = Callable[[str], None]
MARKS = {
    "ready": ("✓", "green"),
    "external": ("✓", "green"),
    "degraded": ("!", "yellow"),
    "unready": ("…", "yellow"),
    "failed": ("✗", "red"),
    "restarting": ("↻", "yellow"),
}
"""What stands before a state, and its colour."""
NO_MARK = ("·", "default")
_console = Console(stderr=True, highlight=False)


def say_rich(line: str) -> None:
    """Progress for people, on stderr."""
    _console.print(line)


def line_of(part: str, now: dict[str, Any]) -> str:
    """One line of rich markup: state, name, seconds, and why where there is a reason."""
    seconds = f"{now['seconds']:.1f} s" if now["state"] in UP else ""
    reason = str(now["detail"]).partition("\n")[0]
    mark, colour = MARKS.get(now["state"], NO_MARK)
    return f"[{colour}]{mark}[/] {part:<17} {now['state']:<10} {seconds:>8}  [dim]{escape(reason)}[/]"


def up(
    *,
    home: Path | None = None,
    parts: Sequence[str] = (),
    detach: bool = False,
    say: Say = say_rich,
    **settings: Any,
) -> dict[str, Any]:
    """Start the stack, or find the one that runs (`already_running` is true then, and nothing is started).

    In the foreground it returns when the stack was stopped by a signal; detached, when everything is ready.
    Raises StartFailed, after stopping what was started.
    """
    from infra.local.settings import LocalSettings

    wanted = LocalSettings.of(home, **settings)
    state.own(wanted.home)
    if state.running(wanted.home):
        found = state.read(wanted.home)
        say(
            f"already running since {_ago(found)}, front door {found.get('urls', {}).get('caddy', 'unknown')}"
        )
        return found | {"already_running": True}
    if detach:
        return _detach(wanted, parts, say)
    return _foreground(wanted, parts, say)


def supervise(parts: Sequence[str]) -> int:
    """Foreground run without terminal output beyond plain lines; settings come from the environment."""
    from infra.local.stack import StartFailed

    try:
        up(parts=parts, say=lambda line: print(line, file=sys.stderr, flush=True))
    except (StartFailed, AlreadyRunning) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


def _foreground(wanted: "LocalSettings", parts: Sequence[str], say: Say) -> dict[str, Any]:
    from infra.local.stack import (
        Stack,
    )  # all parts and their client libraries: `status` and `down` do without

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with Stack(**wanted.model_dump()) as stack:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            started = time.monotonic()
            stack.start(*parts, progress=_progress(say))
            say(
                f"everything is up after {time.monotonic() - started:.0f} s: {stack.urls['caddy']}  (Ctrl-C stops it)"
            )
            while True:
                signal.pause()
        except KeyboardInterrupt:
            say("stopping")
        finally:
            for number in (
                signal.SIGINT,
                *before,
            ):  # an impatient second Ctrl-C must not leave processes behind
                signal.signal(number, signal.SIG_IGN)
            stack.stop()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.signal(signal.SIGINT, signal.default_int_handler)
    return stack.snapshot()


def _progress(say: Say) -> Callable[[str, dict[str, Any]], None]:
    last: dict[str, str] = {}

    def tell(part: str, now: dict[str, Any]) -> None:
        if now["state"] in (*MARKS, "stopped") and last.get(part) != now["state"]:
            last[part] = now["state"]
            say(line_of(part, now))

    return tell


def _detach(wanted: "LocalSettings", parts: Sequence[str], say: Say) -> dict[str, Any]:
    from infra.local.site import python_environment
    from infra.local.stack import StartFailed

    log = wanted.home / "logs" / "supervisor.log"
    log.parent.mkdir(exist_ok=True)
    rotate(log)
    given = wanted.model_dump(exclude_unset=True)
    environment = python_environment() | {k: v for k, v in os.environ.items() if k.startswith("DRIFTWHEEL_")}
    environment |= {f"DRIFTWHEEL_{name.upper()}": _plain(value) for name, value in given.items()}
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "infra.local", *parts],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    tell = _progress(say)
    while supervisor.poll() is None:
        now = state.read(wanted.home)
        if now.get("pid") == supervisor.pid:
            for part, snapshot in now["parts"].items():
                tell(part, snapshot)
            if now["state"] in ("ready", "degraded"):
                say(f"everything is up: {now['urls']['caddy']}  (stop it with `driftwheel down`)")
                return now
        time.sleep(0.2)
    raise StartFailed(f"the stack did not start:\n{tail(log)}\nIts log: {log}")


def _plain(value: Any) -> str:
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)


def down(*, home: Path | None = None, deadline_seconds: float = 120.0, say: Say = say_rich) -> dict[str, Any]:
    """Stop the stack of this home, whoever started it, and every process that a crash left behind."""
    home = (home or state.home()).resolve()
    found = state.read(home)
    if not state.running(home):
        orphans = sweep(home)
        say(
            f"nothing was running in {home}"
            + (f"; ended {len(orphans)} processes left by a crash" if orphans else "")
        )
        return {"state": "stopped", "was_running": False, "orphans": orphans}
    started = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        supervisor = psutil.Process(found["pid"])
        if abs(supervisor.create_time() - found["pid_created"]) < 1:
            supervisor.terminate()
            with suppress(psutil.TimeoutExpired):
                supervisor.wait(deadline_seconds)
            if supervisor.is_running():
                say(
                    f"the supervisor (pid {supervisor.pid}) did not stop in {deadline_seconds:.0f} s: killing it"
                )
                supervisor.kill()
    while state.running(home) and time.monotonic() - started < deadline_seconds:
        time.sleep(0.1)
    orphans = sweep(home)
    say(f"stopped after {time.monotonic() - started:.1f} s")
    return {"state": "stopped", "was_running": True, "orphans": orphans}


def status(*, home: Path | None = None) -> dict[str, Any]:
    """The stack's record, with `state` "stopped" and the pids of `orphans` when no supervisor lives."""
    home = (home or state.home()).resolve()
    found = state.read(home)
    if state.running(home):
        return found
    return {"state": "stopped", "home": str(home), "orphans": [p.pid for p in marked(home)], "parts": {}}


def _ago(found: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.localtime(found.get("pid_created", 0)))
