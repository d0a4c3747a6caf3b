"""Receiving one file over HTTP in bounded memory: it goes to disk while it is counted."""

import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from services.data.rows import excerpt
from shared.contracts.errors import Invalid, TooLarge

_FORM_BYTES = 65_536
"""What a form may hold beside the file."""
_CHUNK = 1_048_576


class Received(NamedTuple):
    path: Path
    filename: str
    purpose: str
    sha256: str
    size: int


@asynccontextmanager
async def receive(request: Request, limit: int, scratch: Path | None) -> AsyncIterator[Received]:
    """The fields `file` and `purpose` of a multipart form; the file is gone after the context.

    Raises:
        TooLarge: more than `limit` bytes, noticed before the body is read if its length is announced.
        Invalid: no such form, or an empty file.
    """
    with tempfile.TemporaryDirectory(prefix="driftwheel-upload-", dir=scratch) as folder:
        async with _form(request, limit) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise Invalid(
                    "The form has no file.", "Send multipart/form-data with the fields file and purpose."
                )
            if not isinstance(purpose, str):
                raise Invalid("The form has no purpose.", "Send purpose=fine-tune.")
            path = Path(folder) / "content"
            sha256, size = await run_in_threadpool(_copy, file, path)
            if size == 0:
                raise Invalid("The file is empty.", "Upload rows as JSON lines, CSV or Parquet.")
            yield Received(path, _safe_name(file.filename), purpose, sha256, size)


@asynccontextmanager
async def _form(request: Request, limit: int) -> AsyncIterator[FormData]:
    too_large = TooLarge(
        f"The file is larger than {limit} bytes.", "Split it: a dataset takes several files."
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit + _FORM_BYTES:
        raise too_large
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Invalid("The body is not a form.", "Send multipart/form-data with the fields file and purpose.")
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit + _FORM_BYTES:
            raise too_large
        return message

    try:
        form = await Request(request.scope, bounded).form(max_files=1, max_fields=8, max_part_size=4_096)
    except HTTPException as error:
        raise Invalid(
            "The form cannot be read.", "Send multipart/form-data with the fields file and purpose."
        ) from error
    try:
        file = form.get("file")
        if isinstance(file, UploadFile) and (file.size or 0) > limit:
            raise too_large
        yield form
    finally:
        await form.close()


def _copy(file: UploadFile, path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        while chunk := file.file.read(_CHUNK):
            digest.update(chunk)
            size += target.write(chunk)
    return digest.hexdigest(), size


def _safe_name(name: str | None) -> str:
    """For display only, never a path."""
    last = (name or "upload").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(char for char in excerpt(last) if char.isprintable()) or "upload"
