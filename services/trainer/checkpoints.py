"""Checkpoints in the object store: `<run>/<step>/<attempt>/<file>`, the manifest last. Without a right one, it is none.

Each attempt writes under its own number, so a worker that was thought dead cannot spoil what its successor saves.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import NamedTuple

import structlog

from services.trainer.domain import CHECKPOINTS
from shared.artifacts.objects import MANIFEST, ObjectStore
from shared.contracts.errors import NotFound

log = structlog.get_logger()


class Place(NamedTuple):
    """Orders checkpoints of one run: a later step is newer, then a later attempt."""

    step: int
    attempt: int

    @classmethod
    def of(cls, key: str) -> "Place | None":
        parts = key.split("/")
        numbers = parts[1:3]
        return cls(*map(int, numbers)) if len(parts) == 4 and all(n.isdecimal() for n in numbers) else None

    def prefix(self, run_id: str) -> str:
        return f"{run_id}/{self.step:08d}/{self.attempt:04d}/"


class Checkpoints:
    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def save(self, run_id: str, place: Place, files: Mapping[str, bytes]) -> None:
        """Write the files, then the manifest that makes them a checkpoint."""
        prefix = place.prefix(run_id)
        for name, data in files.items():
            await self._objects.put(CHECKPOINTS, prefix + name, data)
        manifest = {name: {"sha256": _sha256(data), "size": len(data)} for name, data in files.items()}
        await self._objects.put(CHECKPOINTS, prefix + MANIFEST, json.dumps(manifest, sort_keys=True).encode())

    async def whole(self, run_id: str) -> AsyncIterator[tuple[Place, dict[str, bytes]]]:
        """The checkpoints of a run that are complete and unaltered, newest first."""
        for place in sorted(await self._places(run_id), reverse=True):
            files = await self._read(place.prefix(run_id))
            if files is not None:
                yield place, files
            else:
                log.warning("checkpoint.refused", run=run_id, step=place.step, attempt=place.attempt)

    async def prune(self, run_id: str, keep: int) -> None:
        """Delete all that is older than the newest `keep` complete ones, and what was left half written before them."""
        keys = await self._objects.keys(CHECKPOINTS, f"{run_id}/")
        complete = {place for key in keys if key.endswith(MANIFEST) and (place := Place.of(key))}
        kept = sorted(complete, reverse=True)[:keep]
        for place in {place for key in keys if (place := Place.of(key))} - set(kept):
            if kept and place < kept[0]:
                await self._delete(place.prefix(run_id))

    async def delete(self, run_id: str) -> None:
        await self._delete(f"{run_id}/")

    async def runs(self) -> Collection[str]:
        """Runs that have objects here."""
        return {key.split("/")[0] for key in await self._objects.keys(CHECKPOINTS, "run-")}

    async def _places(self, run_id: str) -> set[Place]:
        keys = await self._objects.keys(CHECKPOINTS, f"{run_id}/")
        return {place for key in keys if (place := Place.of(key))}

    async def _read(self, prefix: str) -> dict[str, bytes] | None:
        """None unless every file is there and is what the manifest says."""
        files: dict[str, bytes] = {}
        try:
            manifest = json.loads(await self._objects.get(CHECKPOINTS, prefix + MANIFEST))
            for name, expected in manifest.items():
                files[name] = await self._objects.get(CHECKPOINTS, prefix + name)
                if {"sha256": _sha256(files[name]), "size": len(files[name])} != expected:
                    return None
        except (NotFound, ValueError, AttributeError):
            return None
        return files

    async def _delete(self, prefix: str) -> None:
        """The manifest first: a checkpoint that is half gone must not look whole."""
        keys = await self._objects.keys(CHECKPOINTS, prefix)
        for key in sorted(keys, key=lambda key: not key.endswith(MANIFEST)):
            await self._objects.delete(CHECKPOINTS, key)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
