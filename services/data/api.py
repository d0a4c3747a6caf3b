"""HTTP edge: files as OpenAI's API has them (/v1/files), and datasets."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from services.data.domain import Build, UploadedFile
from services.data.service import DataService
from services.data.settings import Settings
from services.data.upload import receive
from shared.auth import Caller, requires
from shared.text import Contract, Json, ModelName, Name
from shared.web import HttpWork

FileId = Annotated[str, Field(pattern=r"\Afile-[0-9a-f]{24}\z")]
Reader = Annotated[Caller, requires("data:read")]
Writer = Annotated[Caller, requires("data:write")]


class DatasetRequest(Contract):
    """Build a dataset of `model` from uploaded files; without `format` it is found out file by file."""

    model: ModelName
    files: tuple[FileId, ...] = Field(min_length=1, max_length=20)
    format: Name | None = None


def make_api(service: DataService, settings: Settings) -> APIRouter:
    router = APIRouter()

    # The body is parsed by `receive`, which bounds it; FastAPI's own form parsing would not.
    @router.post("/v1/files", tags=["files"], openapi_extra=_FORM)
    async def upload(request: Request, work: HttpWork, caller: Writer) -> Json:
        async with receive(request, settings.max_upload_bytes, settings.scratch) as received:
            return file_view(await service.add_file(work, caller.subject, received))

    @router.get("/v1/files", tags=["files"])
    async def files(
        work: HttpWork,
        _caller: Reader,
        purpose: Name | None = None,
        after: FileId | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> Json:
        found = await service.files(work, purpose, after, limit + 1, order == "desc")
        page = [file_view(file) for file in found[:limit]]
        ids = (
            {"first_id": page[0]["id"], "last_id": page[-1]["id"]}
            if page
            else {"first_id": None, "last_id": None}
        )
        return {"object": "list", "data": page, **ids, "has_more": len(found) > limit}

    @router.get("/v1/files/{file_id}", tags=["files"])
    async def file(file_id: str, work: HttpWork, _caller: Reader) -> Json:
        return file_view(await service.file(work, file_id))

    @router.post("/datasets", status_code=202, tags=["datasets"])
    async def request_dataset(body: DatasetRequest, work: HttpWork, caller: Writer) -> Json:
        return build_view(
            await service.request_dataset(work, caller.subject, body.model, body.files, body.format)
        )

    @router.get("/datasets", tags=["datasets"])
    async def datasets(
        work: HttpWork,
        _caller: Reader,
        model: ModelName | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> Json:
        return {
            "datasets": [build_view(build, "rejects") for build in await service.builds(work, model, limit)]
        }

    @router.get("/datasets/{any_id}", tags=["datasets"])
    async def dataset(any_id: str, work: HttpWork, _caller: Reader) -> Json:
        return build_view(await service.build(work, any_id))

    return router


def file_view(file: UploadedFile) -> Json:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def build_view(build: Build, *without: str) -> Json:
    """A build and, once it is ready, the dataset it made (`digest`)."""
    view: Json = build.model_dump(mode="json", exclude={"cause", *without})
    return view


_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                    },
                }
            }
        },
    }
}
