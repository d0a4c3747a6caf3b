"""What outlives the process on local disk: the state that was in force, and the documents that adapters are proved with."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import structlog

from services.serving.domain import Adapter, LogicalModel, Rollout, Snapshot

_DIGEST = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger()


class LastKnown:
    """The newest snapshot of the database. A process that starts while the database is away answers from it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "routes.json"
        self._written = b""

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file as a whole, if anything changed. Raises OSError."""
        document = {
            "models": [one.model_dump(mode="json") for one in snapshot.models.values()],
            "adapters": [one.model_dump(mode="json") for one in snapshot.adapters],
            "rollouts": [one.model_dump(mode="json") for one in snapshot.rollouts.values()],
        }
        content = json.dumps(document).encode()
        if content != self._written:
            write(self._path, content)
            self._written = content

    def load(self) -> Snapshot | None:
        """None if there is none, or none that can be read."""
        try:
            found = json.loads(self._path.read_bytes())
            models = [LogicalModel.model_validate(one) for one in found["models"]]
            adapters = [Adapter.model_validate(one) for one in found["adapters"]]
            rollouts = [Rollout.model_validate(one) for one in found["rollouts"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("snapshot.unreadable", error=type(error).__name__)
            return None
        return Snapshot({m.name: m for m in models}, adapters, {r.id: r for r in rollouts})


class Documents:
    """JSON documents by the digest of their bytes: brought once, then at hand while the store is away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def get(self, sha256: str, bring: Callable[[], Awaitable[bytes]]) -> bytes:
        """The document. What `bring` brings is kept if it is the one; its caller judges it if it is not."""
        if (known := await asyncio.to_thread(self._read, sha256)) is not None:
            return known
        content = await bring()
        if hashlib.sha256(content).hexdigest() == sha256:
            await asyncio.to_thread(self._keep, sha256, content)
        return content

    def _read(self, sha256: str) -> bytes | None:
        """Raises nothing: a file that cannot be read, or is another one, is brought again."""
        if not _DIGEST.fullmatch(sha256):
            return None
        try:
            content = (self._folder / f"{sha256}.json").read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    def _keep(self, sha256: str, content: bytes) -> None:
        try:
            write(self._folder / f"{sha256}.json", content)
        except OSError as error:
            log.warning("document.not_kept", error=type(error).__name__)

    def sweep(self, wanted: Collection[str]) -> None:
        """Forget all others."""
        for path in self._folder.glob("*.json"):
            if path.stem not in wanted:
                path.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Replace a file whole, on the disk before it has its name; nobody but its owner may read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
