"""What a part of the stack is: how it starts, how it shows that it is ready, what it provides once it is."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.site import Site


class NotReady(Exception):
    """The part does not answer as it should yet; the message says what is missing."""


@dataclass(frozen=True)
class Sight:
    """What a part that answers says of itself.

    `alive` is False when only a restart helps; `waits` says why it cannot do its work yet, and `troubles` what of it
    stands still though it answers. Both are words for people.
    """

    alive: bool = True
    waits: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launch:
    """One process to run: `user` is a system user to become (only when we are root), `cpus` the cores it may use."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    user: int | None = None
    cpus: frozenset[int] | None = None


class Part(ABC):
    """One process of the stack. Methods may block; each part is driven by a thread of its own."""

    name: str
    needs: tuple[str, ...] = ()
    """Parts that must be ready before this one starts."""
    ports: tuple[str, ...] = ()
    """Names of the loopback ports it listens on."""
    start_seconds: float = 180.0
    """How long it may be silent after its start. One that answers, and waits for another part, is left alone."""
    look_seconds: float = 5.0
    """Between two looks at a part that runs."""
    silent_seconds: float = 60.0
    """How long one that runs may be silent before it is started again."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0

    def external(self, site: Site) -> bool:
        """Whether the user brings this part; then no process is started, but it is checked and provided for."""
        return False

    def prepare(self, site: Site) -> None:  # noqa: B027  most parts have nothing to prepare
        """Make folders and files; runs once, before the first start."""

    @abstractmethod
    def launch(self, site: Site) -> Launch:
        """The process to run."""

    @abstractmethod
    def check(self, site: Site, since: float) -> None:
        """Return when the part answers a real request; raise anything (NotReady with a reason) when not.

        `since` is when its process was started, in seconds since the epoch.
        """

    def look(self, site: Site, since: float) -> Sight:
        """What it says of itself, in one cheap request; raise anything when it does not answer."""
        self.check(site, since)
        return Sight()

    def provide(self, site: Site) -> None:  # noqa: B027  as above
        """Create what others rely on (topics, databases, buckets); idempotent, runs after the first successful check."""

    def cleanup(self, site: Site) -> None:  # noqa: B027  as above
        """Remove what the stopped process leaves outside the home folder."""


def cpu_share(role: str) -> frozenset[int] | None:
    """Cores for `engine` and `worker`: one half each, so that training beside a busy engine starves neither.

    Everything else, and a machine with a single core, is not pinned (None).
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return frozenset({"engine": cores[half:], "worker": cores[:half]}[role]) if half else None
