"""Wall clocks that a fault can move: each of our processes reads the time through libfaketime, shifted by a file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import libfaketime

from infra.local.credentials import SERVICES
from infra.local.part import Launch, Part
from infra.local.parts import WORKERS
from infra.local.parts.service import Service, Worker
from infra.local.site import Site

_LIBRARY = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def _file(home: Path, part: str) -> Path:
    return home / "clocks" / part


def shift(home: Path, part: str, seconds: int) -> None:
    """From now on (within a second) the part's wall clock is `seconds` ahead of the machine's."""
    file = _file(home, part)
    file.parent.mkdir(exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(f"{seconds:+d}s\n")
    new.replace(file)


def _environment(home: Path, part: str) -> Mapping[str, str]:
    return {
        "LD_PRELOAD": str(_LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(_file(home, part)),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def _shifted(launch: Launch, site: Site, part: str) -> Launch:
    shift(site.home, part, 0)
    return replace(launch, environment={**launch.environment, **_environment(site.home, part)})


class _Service(Service):
    def launch(self, site: Site) -> Launch:
        return _shifted(super().launch(site), site, self.name)


class _Worker(Worker):
    def launch(self, site: Site) -> Launch:
        return _shifted(super().launch(site), site, self.name)


def parts(replicas: int) -> list[Part]:
    """Our services and workers, each replica, with such a clock."""
    several = range(1, replicas + 1)
    services = (_Service(name, number) for name in SERVICES for number in several)
    return [*services, *(_Worker(name, number) for name in WORKERS for number in several)]
