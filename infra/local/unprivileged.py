"""A process that must not be root, started by root: a user that is no account, and folders that it can reach.

Nothing of the home is opened to it: its data lie in a folder of their own, and programs that it could not reach are
copied.
"""

import grp
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

CANDIDATES = range(61_000, 61_184)
"""Between the accounts that people get and those that systemd makes for a while."""


class Unreachable(Exception):
    """A process without root's rights could not reach its folder; the message says what to set."""


def user(data: Path) -> int | None:
    """Whose the data are; for new ones a number that no account has. None when we are not root."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid in CANDIDATES:
        return data.stat().st_uid
    taken = {entry.pw_uid for entry in pwd.getpwall()} | {entry.gr_gid for entry in grp.getgrall()}
    return next(number for number in CANDIDATES if number not in taken)


def folder(root: Path, home: Path, part: str) -> Path:
    """The folder of one part of one home under `root`, made when it is not there; only its user's group may pass.

    Raises Unreachable when the user could not pass through to it.
    """
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    root.chmod(0o711)
    if not reachable(root):
        raise Unreachable(f"{root} lies below a folder that others may not pass; set DRIFTWHEEL_UNPRIVILEGED")
    sweep(root)
    mine = root / f"{part}-{hashlib.sha256(str(home).encode()).hexdigest()[:16]}"
    mine.mkdir(exist_ok=True)
    os.chown(mine, 0, user(mine / "data") or 0)
    mine.chmod(0o710)
    (mine / "home").write_text(str(home))
    return mine


def sweep(root: Path) -> None:
    """Remove what belongs to homes in the folder for temporary files that are gone; no other home is ever given up."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for record in root.glob("*/home"):
        with suppress(FileNotFoundError):  # another stack was faster
            home = Path(record.read_text())
            if home.is_relative_to(temporary) and not home.exists():
                shutil.rmtree(record.parent, ignore_errors=True)


def reachable(path: Path) -> bool:
    """Whether everybody may pass through it, or run it, and through all folders above."""
    return all(at.stat().st_mode & stat.S_IXOTH for at in (path.resolve(), *path.resolve().parents))


def program(root: Path, installed: Path, name: str, version: str) -> Path:
    """The installed folder; where the user cannot run `name` in it, a copy under `root` that everybody can read."""
    if reachable(installed / name):
        return installed
    copy = root / f"{Path(name).name}-{version}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(dir=root, prefix=".copy-"))
        shutil.copytree(installed, partial / "it", symlinks=True)
        for path in (partial / "it", *(partial / "it").rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        with suppress(FileExistsError):  # another stack was faster
            (partial / "it").rename(copy)
        shutil.rmtree(partial)
    return copy


def give(path: Path, user: int, group: int) -> None:
    """Make all of it theirs alone."""
    for each in (path, *path.rglob("*")):
        os.lchown(each, user, group)
    path.chmod(0o700)
