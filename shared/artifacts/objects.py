"""Artifacts in S3: content-addressed, published whole or not at all.

Keys are `sha256/<digest>/<name>`; files first, `manifest.json` last, conditionally. No manifest, no artifact.
"""

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import stamina
import structlog
from minio.error import MinioException, S3Error
from pydantic import SecretStr
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as NoAnswer

from shared.artifacts.connection import NoKeys, connect
from shared.artifacts.settings import S3Settings
from shared.contracts.errors import Invalid, NotFound, Unavailable

log = structlog.get_logger()
T = TypeVar("T")

MANIFEST = "manifest.json"
CHUNK = 1_048_576
LOOK_SECONDS = 5.0
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ObjectStore(Protocol):
    """Objects by bucket and key. Every method raises Unavailable when the store does not answer."""

    async def create(self, bucket: str, key: str, data: bytes) -> bool:
        """Write only if the key is free (If-None-Match: *); False if it was taken."""
        ...

    async def put(self, bucket: str, key: str, data: bytes) -> None: ...
    async def get(self, bucket: str, key: str) -> bytes:
        """Raises NotFound."""
        ...

    async def upload(self, bucket: str, key: str, path: Path) -> None: ...
    async def download(self, bucket: str, key: str, path: Path) -> None:
        """Raises NotFound. `path` appears whole or not at all."""
        ...

    def stream(self, bucket: str, key: str) -> AsyncIterator[bytes]:
        """Chunks of at most 1 MiB. Raises NotFound."""
        ...

    async def exists(self, bucket: str, key: str) -> bool: ...
    async def keys(self, bucket: str, prefix: str) -> list[str]: ...
    async def delete(self, bucket: str, key: str) -> None: ...


class S3Objects:
    """The store over S3. The SDK is synchronous, so calls run in threads."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self._use(
            S3Settings(s3_endpoint=endpoint, s3_access_key=access_key, s3_secret_key=SecretStr(secret_key))
        )

    @classmethod
    def of(cls, settings: S3Settings) -> Self:
        """The store that a service's settings describe."""
        store = cls.__new__(cls)
        store._use(settings)
        return store

    def _use(self, settings: S3Settings) -> None:
        self._client = connect(settings)
        self._at = settings.bucket

    async def create(self, bucket: str, key: str, data: bytes) -> bool:
        unanswered = False
        for pause in (0.0, 0.2, 0.5, 1.0, 2.0):
            await asyncio.sleep(pause)
            try:
                outcome = await _call(lambda: self._put_if_free(self._at(bucket), key, data), tries=1)
            except Unavailable as error:
                if not _retryable(error.__cause__) or pause == 2.0:
                    raise
                unanswered = True  # it may have been written all the same
                continue
            if outcome == "taken" and unanswered:
                return await self.get(bucket, key) == data
            if outcome != "conflict":
                return outcome == "created"
        raise Unavailable("The object store did not decide between two writers.", "Try again.")

    def _put_if_free(self, bucket: str, key: str, data: bytes) -> Literal["created", "taken", "conflict"]:
        # The SDK's public call turns this header into metadata and overwrites; so the request is made here.
        headers: dict[str, str | list[str] | tuple[str]] = {"If-None-Match": "*"}
        try:
            self._client._execute("PUT", bucket, key, body=data, headers=headers)
        except S3Error as error:
            if error.code == "PreconditionFailed":
                return "taken"
            if error.code in {"ConditionalRequestConflict", "OperationAborted"}:
                return "conflict"  # another write is under way: it may fail yet
            raise
        return "created"

    async def put(self, bucket: str, key: str, data: bytes) -> None:
        await _call(lambda: self._client._execute("PUT", self._at(bucket), key, body=data, headers={}))

    async def get(self, bucket: str, key: str) -> bytes:
        def call() -> bytes:
            response = self._client.get_object(self._at(bucket), key)
            try:
                return bytes(response.data)
            finally:
                response.close()
                response.release_conn()

        return await _call(call)

    async def upload(self, bucket: str, key: str, path: Path) -> None:
        await _call(lambda: self._client.fput_object(self._at(bucket), key, str(path)))

    async def download(self, bucket: str, key: str, path: Path) -> None:
        await _call(lambda: self._client.fget_object(self._at(bucket), key, str(path)))

    async def stream(self, bucket: str, key: str) -> AsyncIterator[bytes]:
        response = await _call(lambda: self._client.get_object(self._at(bucket), key))
        try:
            while chunk := await _call(lambda: response.read(CHUNK), tries=1):
                yield chunk
        finally:
            response.close()
            response.release_conn()

    async def exists(self, bucket: str, key: str) -> bool:
        try:
            await _call(lambda: self._client.stat_object(self._at(bucket), key))
        except NotFound:
            return False
        return True

    async def keys(self, bucket: str, prefix: str) -> list[str]:
        def call() -> list[str]:
            found = self._client.list_objects(self._at(bucket), prefix=prefix, recursive=True)
            return [item.object_name for item in found if item.object_name]

        return await _call(call)

    async def delete(self, bucket: str, key: str) -> None:
        await _call(lambda: self._client.remove_object(self._at(bucket), key))


def _retryable(error: BaseException | None) -> bool:
    return isinstance(error, HTTPError | OSError) or (
        isinstance(error, S3Error) and error.code in {"InternalError", "SlowDown", "ServiceUnavailable"}
    )


async def _call(call: Callable[[], T], tries: int = 3) -> T:
    """Run a synchronous SDK call in a thread; map its errors to ours."""
    try:
        async for attempt in stamina.retry_context(
            on=_retryable, attempts=tries, wait_initial=0.2, wait_max=2.0, timeout=None
        ):
            with attempt:
                return await asyncio.to_thread(call)
    except S3Error as error:
        if error.code in {"NoSuchKey", "NoSuchObject", "NotFound"}:
            raise NotFound("There is no such object in the store.", "Check the digest or key.") from error
        raise Unavailable(
            f"The object store refused: {error.code}.", "Check credentials and buckets."
        ) from error
    except NoKeys as error:
        raise Unavailable("There are no keys for the object store.", "Check S3_CREDENTIALS.") from error
    except (HTTPError, OSError, MinioException) as error:
        raise Unavailable(
            "The object store does not answer.", "Check S3_ENDPOINT and that it runs."
        ) from error
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact consists of: name -> {"sha256", "size"}, and its describing metadata."""

    files: Mapping[str, Mapping[str, Any]]
    meta: Mapping[str, Any]

    def canonical(self) -> bytes:
        document = {"files": self.files, "meta": self.meta}
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical()).hexdigest()


@dataclass(frozen=True, slots=True)
class Published:
    digest: str
    manifest: Manifest


def object_key(digest: str, name: str) -> str:
    """The key of one file of an artifact. Raises Invalid unless both parts are clean."""
    if not _DIGEST.fullmatch(digest) or not _FILE_NAME.fullmatch(name):
        raise Invalid("Not a digest and file name.", "A digest is 64 hexadecimal characters.")
    return f"sha256/{digest}/{name}"


async def publish(
    store: ObjectStore, bucket: str, files: Mapping[str, Path | bytes], meta: Mapping[str, Any]
) -> Published:
    """Publish an artifact. Publishing the same content again changes nothing, and mends what was altered since."""
    described = {name: await asyncio.to_thread(_describe, content) for name, content in sorted(files.items())}
    manifest = Manifest(described, meta)
    digest = manifest.digest
    again = await store.exists(bucket, object_key(digest, MANIFEST))
    for name, content in sorted(files.items()):
        key = object_key(digest, name)
        if again and await _described(store, bucket, key) == described[name]:
            continue
        if again:
            log.warning("artifact.mended", bucket=bucket, digest=digest, file=name)
        if isinstance(content, Path):
            await store.upload(bucket, key, content)
        else:
            await store.put(bucket, key, content)
    await _put_manifest(store, bucket, object_key(digest, MANIFEST), manifest.canonical())
    return Published(digest, manifest)


async def _put_manifest(store: ObjectStore, bucket: str, key: str, manifest: bytes) -> None:
    """Returns only when the manifest is there and right: an event that names it follows."""
    if await store.create(bucket, key, manifest):
        return
    with suppress(NotFound):
        if await store.get(bucket, key) == manifest:
            return
    await store.put(bucket, key, manifest)


async def _described(store: ObjectStore, bucket: str, key: str) -> dict[str, Any] | None:
    """What `_describe` says of an object; None when it is not there."""
    digest, size = hashlib.sha256(), 0
    try:
        async for chunk in store.stream(bucket, key):
            digest.update(chunk)
            size += len(chunk)
    except NotFound:
        return None
    return {"sha256": digest.hexdigest(), "size": size}


async def read_manifest(store: ObjectStore, bucket: str, digest: str) -> Manifest:
    """Raises NotFound if the artifact was never fully published, Invalid if its manifest is not the one named."""
    data = await store.get(bucket, object_key(digest, MANIFEST))
    if hashlib.sha256(data).hexdigest() != digest:
        raise Invalid("The manifest is not the one its digest names.", "Publish the artifact again.")
    document = json.loads(data)
    return Manifest(document["files"], document["meta"])


async def look(asked: Awaitable[T], seconds: float = LOOK_SECONDS) -> T:
    """Something small that the store is asked while a transaction is open, which PostgreSQL ends when it is idle for long.

    Raises:
        Unavailable: the store, for so long. It is waited for as when it is away.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError:
        silence = NoAnswer(f"nothing in {seconds:g} s")
        raise Unavailable("The object store does not answer.", "Look at its load.") from silence


async def fetch(store: ObjectStore, bucket: str, digest: str, to: Path) -> Manifest:
    """Bring an artifact into the folder `to`, every file verified. Files already there and right are kept.

    Raises:
        Invalid: a file differs from its digest; nothing of it is left in `to`.
    """
    manifest = await read_manifest(store, bucket, digest)
    await asyncio.to_thread(to.mkdir, parents=True, exist_ok=True)
    for name, expected in manifest.files.items():
        key = object_key(digest, name)
        path = to / name
        if path.is_file() and await asyncio.to_thread(_describe, path) == dict(expected):
            continue
        await store.download(bucket, key, path)
        if await asyncio.to_thread(_describe, path) != dict(expected):
            await asyncio.to_thread(shutil.rmtree, to)
            raise Invalid(f"{name} differs from its digest.", "The artifact was altered: publish it again.")
    return manifest


def _describe(content: Path | bytes) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": content.stat().st_size}
