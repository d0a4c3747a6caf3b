"""Drives one part through its life: wait for what it needs, start, check, provide, watch, restart with back-off, stop.

A part is started again when it ended, says that it is stuck, or is silent for too long. One that answers and waits for
another part is left alone: starting it again would not bring the other one back.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from infra.local.part import Part, Sight
from infra.local.process import Process, tail
from infra.local.site import Site
from infra.local.state import UP

State = Literal[
    "waiting", "preparing", "starting", "ready", "degraded", "unready", "external", "restarting", "failed", "stopped"
]  # fmt: skip
"""`degraded`: it answers, but some of its work stands still. `unready`: it runs, and waits for another part."""
FIRST_ATTEMPTS = 3
STEADY_SECONDS = 30.0
STUCK_SECONDS = 10.0
POLL_SECONDS = 0.1


@dataclass
class Status:
    """What is known of a part. `seconds` is how long its last start took until it was ready."""

    state: State = "waiting"
    pid: int | None = None
    restarts: int = 0
    seconds: float = 0.0
    detail: str = ""


def back_off(failures: int) -> float:
    """Seconds to wait before start number `failures` + 1 in a row: 0.2, 0.4, … at most 30."""
    return float(min(30.0, 0.2 * 2 ** max(0, failures - 1)))


class Runner:
    """A part and the thread that keeps it alive."""

    def __init__(
        self, part: Part, site: Site, mark: str, needs: Sequence["Runner"], changed: Callable[[str], None]
    ):
        self.part, self.site, self.status = part, site, Status()
        self.ready, self.ended = threading.Event(), threading.Event()
        self._mark, self._needs, self._changed = mark, needs, changed
        self._stopping = threading.Event()
        self._asked_restart = False
        self._process: Process | None = None
        self._provided = False
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=part.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin_stop(self) -> None:
        """Ask the part to stop without waiting, so that independent parts stop side by side."""
        self._stopping.set()
        self.ready.clear()
        if self._process:
            self._process.send(self.part.stop_signal)

    def finish_stop(self) -> None:
        if self._process:
            self._process.stop(self.part.stop_signal, self.part.stop_seconds)
        self._thread.join(timeout=self.part.start_seconds)
        self.part.cleanup(self.site)
        self._set("stopped" if self.status.state != "failed" else "failed", pid=None)

    def kill(self) -> None:
        """kill -9 the process, as a crash would; it is started again with back-off."""
        self._running().kill()
        with self._telling:
            self.ready.clear()

    def restart(self) -> None:
        """Stop the process in good order; it is started again at once."""
        self._asked_restart = True
        self._running().stop(self.part.stop_signal, self.part.stop_seconds)
        with self._telling:
            self.ready.clear()

    def snapshot(self) -> dict[str, object]:
        return {**asdict(self.status), "log": str(self.site.log(self.part.name))}

    def _running(self) -> Process:
        if self._process is None or self._process.exit_code() is not None:
            raise RuntimeError(f"{self.part.name} has no running process (state: {self.status.state})")
        return self._process

    def _run(self) -> None:
        try:
            if self._wait_for_needs():
                self._set("preparing")
                if self.part.external(self.site):
                    self._live_with_external()
                else:
                    self._prepare()
                    self._keep_alive()
        except Exception as error:  # noqa: BLE001  whatever a part raises, the stack must learn that it failed
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self.ended.set()

    def _wait_for_needs(self) -> bool:
        for need in self._needs:
            while not need.ready.wait(POLL_SECONDS):
                if self._stopping.is_set():
                    return False
                if need.status.state == "failed":
                    self._fail(f"{need.part.name}, which it needs, failed")
                    return False
        return True

    def _live_with_external(self) -> None:
        started, reason = time.monotonic(), "not checked"
        while not self._stopping.wait(POLL_SECONDS if not self._provided else self.part.look_seconds):
            try:
                self.part.check(self.site, time.time())
                if not self._provided:
                    self.part.provide(self.site)
                    self._provided = True
                    self._set("external", seconds=time.monotonic() - started)
                self._set("external", detail="")
                self.ready.set()
            except Exception as error:  # noqa: BLE001  a part that is away fails in its client library's own ways
                reason = f"your own {self.part.name} does not answer: {type(error).__name__}: {error}"
                if self._provided:
                    self._set("unready", detail=reason)
                elif time.monotonic() - started > self.part.start_seconds:
                    self._fail(reason)
                    return

    def _prepare(self) -> None:
        """Tried as often as a first start: what the part needs may be slow while everything starts at once."""
        for failures in range(1, FIRST_ATTEMPTS + 1):
            try:
                self.part.prepare(self.site)
            except Exception as error:
                if failures == FIRST_ATTEMPTS or self._stopping.wait(back_off(failures)):
                    raise
                self._set("preparing", detail=f"tried again after {type(error).__name__}: {error}")
            else:
                return

    def _keep_alive(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            self._process = Process(self.part.launch(self.site), self.site.log(self.part.name), self._mark)
            self._set("starting" if not self._provided else "restarting", pid=self._process.pid)
            reason = self._watch(self._process, started)
            steady = self.status.state in UP and time.monotonic() - started > STEADY_SECONDS
            self.ready.clear()
            self._process.stop(self.part.stop_signal, self.part.stop_seconds)  # the rest of its group, if any
            if self._stopping.is_set():
                return
            failures = 0 if self._asked_restart else 1 if steady else failures + 1
            self._asked_restart = False
            if not self._provided and failures >= FIRST_ATTEMPTS:
                self._fail(f"{reason}\n{tail(self.site.log(self.part.name))}")
                return
            self.status.restarts += 1
            self._set("restarting", pid=None, detail=reason)
            self._stopping.wait(back_off(failures) if failures else 0)

    def _watch(self, process: Process, started: float) -> str:
        """Look at the process until it has to be started again; says why."""
        since, heard, well = time.time() - (time.monotonic() - started), started, started
        was_ready, pause = False, POLL_SECONDS
        while not self._stopping.is_set():
            if (code := process.wait(pause)) is not None:
                return f"exited with code {code}{'' if was_ready else ' before it was ready'}"
            try:
                sight = self.part.look(self.site, since)
                if not was_ready and sight.alive and not sight.waits:
                    self.part.check(self.site, since)
                    was_ready = True
            except Exception as error:  # noqa: BLE001  a part not up yet fails in its client library's own ways
                silent, why = time.monotonic() - heard, f"{type(error).__name__}: {error}"
                if silent > (self.part.silent_seconds if was_ready else self.part.start_seconds):
                    return (
                        f"not ready after {silent:.0f} s: {why}"
                        if not was_ready
                        else f"silent for {silent:.0f} s: {why}"
                    )
                if was_ready and silent > 2 * self.part.look_seconds:
                    self._set("degraded", detail=f"silent for {silent:.0f} s: {why}")
                continue
            heard = time.monotonic()
            well = heard if sight.alive else well
            if heard - well > STUCK_SECONDS:
                return f"said for {heard - well:.0f} s that it is stuck"
            pause = self.part.look_seconds if was_ready else min(1.0, pause * 1.2)
            self._tell(process, sight, started)
        return "stopping"

    def _tell(self, process: Process, sight: Sight, started: float) -> None:
        """Show what the part says of itself."""
        if not sight.waits and not self._provided:
            self.part.provide(self.site)
            self._provided = True
        with self._telling:
            if process.exit_code() is not None:
                return
            detail = "; ".join((*sight.waits, *sight.troubles))
            if sight.waits:
                self.ready.clear()
                self._set("unready", detail=detail)
                return
            if not self.ready.is_set():
                self.status.seconds = time.monotonic() - started
            self._set("degraded" if sight.troubles else "ready", detail=detail)
            self.ready.set()

    def _fail(self, reason: str) -> None:
        self._set("failed", pid=None, detail=reason)

    def _set(self, state: State, **changes: object) -> None:
        before = asdict(self.status)
        self.status.state = state
        for name, value in changes.items():
            setattr(self.status, name, value)
        if asdict(self.status) != before:
            self._changed(self.part.name)
