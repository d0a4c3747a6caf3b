"""A running stack, or any part of one: `with Stack(home) as stack: stack.start("kafka", "postgres")`."""

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from infra import prometheus
from infra.local import credentials, ports, state
from infra.local.part import Part
from infra.local.parts import parts_of
from infra.local.process import memory_bytes, sweep
from infra.local.runner import Runner
from infra.local.settings import LocalSettings
from infra.local.site import Site, python_environment
from infra.local.state import UP, AlreadyRunning

__all__ = ["AlreadyRunning", "Stack", "StartFailed", "closure", "waves"]

HEARTBEAT_SECONDS = 2.0
Progress = Callable[[str, dict[str, object]], None]
"""Called with a part's name and its snapshot whenever its state changes."""


class StartFailed(Exception):
    """A part did not become ready; the message names it, why, and its log."""


def closure(wanted: Iterable[str], parts: Mapping[str, Part]) -> list[str]:
    """The wanted parts and all they need, in an order in which each comes after what it needs."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"parts need each other in a circle: {' → '.join((*path, name))}")
        if name not in parts:
            raise KeyError(f"no part {name!r}; there are {', '.join(parts)}")
        if name not in order:
            for need in parts[name].needs:
                visit(need, (*path, name))
            order.append(name)

    for name in wanted:
        visit(name, ())
    return order


def waves(names: Collection[str], parts: Mapping[str, Part]) -> list[list[str]]:
    """Groups that may stop side by side, in stopping order: a part stops only after all that need it."""
    left, result = list(names), []
    while left:
        needed = {need for name in left for need in parts[name].needs}
        result.append([name for name in left if name not in needed])
        left = [name for name in left if name in needed]
    return result


class Stack:
    """Supervises parts in this process. One stack per home folder; `AlreadyRunning` is raised for a second.

    Starting more parts later is fine: `start` may be called again. All state lies under `home`.
    """

    def __init__(self, home: Path | None = None, more: Iterable[Part] = (), **settings: Any):
        """`settings` are fields of LocalSettings; the environment gives the rest. `more` are parts beside the usual."""
        self.settings = LocalSettings.of(home, **settings)
        self.home = self.settings.home
        state.own(self.home)
        self._lock = state.lock(self.home)
        self._id = uuid.uuid4().hex[:12]
        sweep(self.home, besides=self._id)
        self._parts = parts_of(self.settings.replicas) | {part.name: part for part in more}
        self._held = self._reserve_ports()
        numbers = {name: held.getsockname()[1] for name, held in self._held.items()}
        self.site = Site(self.settings, credentials.load_or_create(self.home / "secrets"), numbers)
        targets = {name: f"{ports.LOOPBACK}:{numbers[name]}" for name in (*prometheus.SCRAPED, "engine")}
        (self.home / "prometheus.yml").write_text(prometheus.config(targets, str(prometheus.ALERTS)))
        self._runners: dict[str, Runner] = {}
        self._started = False
        self._memory: dict[str, int] = {}
        self._progress: Progress | None = None
        self._closing, self._writing = threading.Event(), threading.Lock()
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "infra.local.guard", str(self.home), self._id],
            stdin=subprocess.PIPE,
            env=python_environment(),
            start_new_session=True,
        )
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def _reserve_ports(self) -> dict[str, Any]:
        last = state.read(self.home).get("ports", {})
        preferred = {"caddy": self.settings.http_port} | (last if isinstance(last, dict) else {})
        return {
            name: ports.reserve(preferred.get(name)) for part in self._parts.values() for name in part.ports
        }

    def start(self, *parts: str, progress: Progress | None = None) -> Self:
        """Start these parts (all, when none is named) and what they need; returns when every one is ready.

        Raises StartFailed when one is not; parts already started stay up until `stop`.
        """
        self._progress = progress or self._progress
        wanted = closure(parts or self._parts, self._parts)
        new = [name for name in wanted if name not in self._runners]
        for name in new:
            needs = [self._runners[need] for need in self._parts[name].needs]
            mark = f"{self.home}|{self._id}|{name}"
            self._runners[name] = Runner(self._parts[name], self.site, mark, needs, self._changed)
        for name in new:
            self._runners[name].start()
        self._await([self._runners[name] for name in wanted])
        self._started = True
        return self

    def _await(self, runners: list[Runner]) -> None:
        waiting_since = time.monotonic()
        for runner in runners:
            while not runner.ready.wait(0.1):
                missing = [r for r in runners if not r.ready.is_set()]
                if any(r.status.state != "unready" for r in missing):
                    waiting_since = time.monotonic()
                if missing and time.monotonic() - waiting_since > missing[0].part.start_seconds:
                    waits = "; ".join(f"{r.part.name} waits: {r.status.detail}" for r in missing)
                    raise StartFailed(
                        f"all else is up, but {waits}\nIts log: {self.site.log(missing[0].part.name)}"
                    )
                broken = next((r for r in runners if r.status.state == "failed"), None)
                if broken:
                    name = broken.part.name
                    raise StartFailed(
                        f"{name} did not start: {broken.status.detail}\nIts log: {self.site.log(name)}"
                    )
                if self._closing.is_set():
                    raise StartFailed("the stack was stopped while it started")

    def stop(self) -> None:
        """Stop all parts, those that depend on others first. No process of this stack is left. Safe to call twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        for wave in waves(self._runners, self._parts):
            for name in wave:
                self._runners[name].begin_stop()
            for name in wave:
                self._runners[name].finish_stop()
        sweep(self.home, stack=self._id)
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()
        self._heart.join()
        self._write()
        for held in self._held.values():
            held.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self, part: str) -> None:
        """kill -9 the part's process, as a crash would. The supervisor starts it again with back-off."""
        self._runners[part].kill()

    def restart(self, part: str) -> None:
        """Stop the part in good order; the supervisor starts it again at once."""
        self._runners[part].restart()

    def take_down(self, part: str) -> None:
        """kill -9 the part's process and leave it down, until `start(part)`."""
        runner = self._runners.pop(part)
        runner.kill()
        runner.begin_stop()
        runner.finish_stop()

    def wait_ready(self, part: str, deadline_seconds: float = 60.0) -> None:
        """Return when the part is ready; raises TimeoutError with what it said last."""
        runner = self._runners[part]
        if not runner.ready.wait(deadline_seconds):
            raise TimeoutError(
                f"{part} is {runner.status.state} after {deadline_seconds} s: {runner.status.detail}"
            )

    def pid(self, part: str) -> int:
        """Process id of a running part."""
        pid = self._runners[part].status.pid
        if pid is None:
            raise RuntimeError(f"{part} has no process (state: {self._runners[part].status.state})")
        return pid

    def env_for(self, service: str) -> dict[str, str]:
        """Environment variables that tell a service where everything is."""
        return self.site.env_for(service)

    @property
    def urls(self) -> dict[str, str]:
        """Addresses without credentials, by part."""
        http = ("caddy", "engine", *credentials.SERVICES)
        return {
            "kafka": self.site.kafka_bootstrap,
            "postgres": self.site.postgres_admin_url.rpartition("@")[2],
            "s3": self.site.s3_endpoint,
            **{name: self.site.url(name) for name in http if name in self.site.ports},
            "engine": self.site.engine_url,
        }

    def snapshot(self) -> dict[str, Any]:
        """What `stack.json` holds."""
        own = psutil.Process()
        return {
            "state": self._state(),
            "pid": own.pid,
            "pid_created": own.create_time(),
            "stack": self._id,
            "updated_at": time.time(),
            "home": str(self.home),
            "engine": self.settings.engine,
            "urls": self.urls,
            "ports": dict(self.site.ports),
            "parts": {name: self._part(name) for name in list(self._runners)},
        }

    def _part(self, name: str) -> dict[str, object]:
        return self._runners[name].snapshot() | {"rss_bytes": self._memory.get(name, 0)}

    def _state(self) -> str:
        states = {runner.status.state for runner in self._runners.values()}
        if self._closing.is_set():
            return "stopping" if states - {"stopped", "failed"} else "stopped"
        if "failed" in states:
            return "failed"
        if states <= {"ready", "external"}:
            return "ready"
        return "degraded" if self._started and states <= {*UP, "unready"} else "starting"

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            pids = {name: runner.status.pid for name, runner in list(self._runners.items())}
            self._memory = memory_bytes({name: pid for name, pid in pids.items() if pid})
            self._write()

    def _changed(self, part: str) -> None:
        self._write()
        if self._progress:
            self._progress(part, self._part(part))

    def _write(self) -> None:
        with self._writing:
            state.write(self.home, self.snapshot())
