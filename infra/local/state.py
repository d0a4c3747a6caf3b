"""The stack's home: whose it is, its record `stack.json`, and the lock that says a supervisor lives."""

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

FILE = "stack.json"
UP = ("ready", "degraded", "external")
"""States in which a part can be used."""
ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".driftwheel"


def home() -> Path:
    """DRIFTWHEEL_HOME, or the folder beside the code: what LocalSettings say too, without all the rest of them."""
    return Path(os.environ.get("DRIFTWHEEL_HOME") or HOME).resolve()


class AlreadyRunning(Exception):
    """Another supervisor holds this home; `state` is its record."""

    def __init__(self, home: Path, state: dict[str, Any]):
        super().__init__(
            f"a stack is already running in {home} (supervisor pid {state.get('pid', 'unknown')}); "
            "use it, or stop it with `driftwheel down`"
        )
        self.state = state


def own(home: Path) -> None:
    """Make the home, for nobody but us; files that this process and its children make from now on are ours alone."""
    os.umask(0o077)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)  # an older one was open to all


def lock(home: Path) -> IO[str]:
    """Hold this home until the file is closed or the process ends; the kernel frees it even after kill -9."""
    file = (home / "stack.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise AlreadyRunning(home, read(home)) from None
    return file


def running(home: Path) -> bool:
    """Whether a supervisor lives in this home."""
    if not (home / "stack.lock").exists():
        return False
    try:
        lock(home).close()
    except AlreadyRunning:
        return True
    return False


def read(home: Path) -> dict[str, Any]:
    """The last record, or {} when there is none or it is unreadable."""
    try:
        state = json.loads((home / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write(home: Path, state: dict[str, Any]) -> None:
    """Replace the record atomically: a reader sees the old one or the new one, never half."""
    partial = home / f".{FILE}.{os.getpid()}"
    partial.write_text(json.dumps(state, indent=1))
    partial.replace(home / FILE)
