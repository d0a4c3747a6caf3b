"""Drives one part through its life: wait for what it needs, start, check, provide, restart with back-off, stop."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from infra.local.part import Part
from infra.local.process import Process, tail
from infra.local.site import Site

State = Literal["waiting", "preparing", "starting", "ready", "external", "restarting", "failed", "stopped"]
FIRST_ATTEMPTS = 3
STEADY_SECONDS = 30.0
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
        self.ready.clear()
        self._running().kill()

    def restart(self) -> None:
        """Stop the process in good order; it is started again at once."""
        self.ready.clear()
        self._asked_restart = True
        self._running().stop(self.part.stop_signal, self.part.stop_seconds)

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
                    self.part.prepare(self.site)
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
        started = time.monotonic()
        if reason := self._until_ready(started):
            self._fail(f"your own {self.part.name} does not answer: {reason}")
            return
        self.part.provide(self.site)
        self._set("external", seconds=time.monotonic() - started)
        self.ready.set()

    def _keep_alive(self) -> None:
        failures, provided = 0, False
        while not self._stopping.is_set():
            started = time.monotonic()
            self._process = Process(self.part.launch(self.site), self.site.log(self.part.name), self._mark)
            self._set("starting" if not provided else "restarting", pid=self._process.pid)
            reason = self._until_ready(started)
            if reason is None:
                if not provided:
                    self.part.provide(self.site)
                    provided = True
                self._set("ready", seconds=time.monotonic() - started, detail="")
                self.ready.set()
                reason = f"exited with code {self._process.wait()}"
            self.ready.clear()
            self._process.stop(self.part.stop_signal, self.part.stop_seconds)  # the rest of its group, if any
            if self._stopping.is_set():
                return
            steady = self.status.state == "ready" and time.monotonic() - started > STEADY_SECONDS
            failures = 0 if self._asked_restart else 1 if steady else failures + 1
            self._asked_restart = False
            if not provided and failures >= FIRST_ATTEMPTS:
                self._fail(f"{reason}\n{tail(self.site.log(self.part.name))}")
                return
            self.status.restarts += 1
            self._set("restarting", pid=None, detail=reason)
            self._stopping.wait(back_off(failures) if failures else 0)

    def _until_ready(self, started: float) -> str | None:
        """None when the check passed, else why it never did."""
        reason, since = "not checked", time.time() - (time.monotonic() - started)
        while time.monotonic() - started < self.part.start_seconds:
            if self._stopping.wait(POLL_SECONDS):
                return "stopping"
            if self._process and (code := self._process.exit_code()) is not None:
                return f"exited with code {code} before it was ready"
            try:
                self.part.check(self.site, since)
            except Exception as error:  # noqa: BLE001  a part not up yet fails in its client library's own ways
                reason = f"{type(error).__name__}: {error}"
                continue
            return None
        return f"not ready after {self.part.start_seconds:.0f} s: {reason}"

    def _fail(self, reason: str) -> None:
        self._set("failed", pid=None, detail=reason)

    def _set(self, state: State, **changes: object) -> None:
        self.status.state = state
        for name, value in changes.items():
            setattr(self.status, name, value)
        self._changed(self.part.name)
