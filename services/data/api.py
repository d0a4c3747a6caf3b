"""HTTP edge: files as OpenAI's API has them (/v1/files), and datasets."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from services.data.comparer import Comparer
from services.data.domain import DATASETS, Build, Provenance, State, UploadedFile
from services.data.erasure import Forgetting
from services.data.service import DataService
from services.data.settings import Settings
from services.data.upload import receive
from shared.contracts.text import Contract, Identifier, Json, ModelName, Name, Text
from shared.http.auth import Caller, requires, requires_for_model, requires_for_some_model
from shared.http.web import HttpWork
from shared.jobs.queue import ahead

FileId = Annotated[str, Field(pattern=r"^file-[0-9a-f]{24}$")]
Reader = Annotated[Caller, requires("data:read")]
Admin = Annotated[Caller, requires("admin")]
Writer = Annotated[Caller, requires_for_some_model("data:write")]
ReaderOfModel = Annotated[Caller, requires_for_model("data:read")]
ReaderOfSome = Annotated[Caller, requires_for_some_model("data:read")]


class DatasetRequest(Contract):
    """Build a dataset of `model` from uploaded files; without `format` it is found out file by file."""

    model: ModelName
    files: tuple[FileId, ...] = Field(min_length=1, max_length=20)
    format: Name | None = None


class ForgetRequest(Contract):
    """A subject of a model, and the answers whose texts are its own, as serving lists them."""

    model: ModelName
    subject: Annotated[Text, Field(min_length=1, max_length=256)]
    answers: tuple[Identifier, ...] = Field((), max_length=10_000)


def make_erasure_api(forgetting: Forgetting) -> APIRouter:
    router = APIRouter(tags=["subjects"])

    @router.post("/subjects/erase")
    async def erase(body: ForgetRequest, caller: Admin) -> Json:
        """No dataset that is made from now on has what the subject said; `datasets` are those that do have some of it."""
        found = await forgetting.forget(body.model, body.subject, body.answers, caller.subject)
        return {"rows": found.rows, "datasets": list(found.datasets)}

    return router


def make_api(service: DataService, settings: Settings, comparer: Comparer) -> APIRouter:
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
        caller.demand("data:write", body.model)
        return build_view(
            await service.request_dataset(work, caller.subject, body.model, body.files, body.format)
        )

    @router.get("/datasets", tags=["datasets"])
    async def datasets(
        work: HttpWork,
        _caller: ReaderOfModel,
        model: ModelName | None = None,
        state: State | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> Json:
        """Newest first; `after` is the last id of the page before."""
        found = await service.builds(work, model, state, after, limit + 1)
        page = [build_view(build, "rejects", "lengths") for build in found[:limit]]
        return {"datasets": page, "has_more": len(found) > limit}

    @router.get("/datasets/{any_id}", tags=["datasets"])
    async def dataset(any_id: str, work: HttpWork, caller: ReaderOfSome) -> Json:
        build = await service.build(work, any_id)
        caller.demand("data:read", build.model)
        provenance = provenance_view(build, await service.provenance(work, build))
        places = await ahead(work, [build.id]) if build.state == "queued" else {}
        return {**build_view(build), **provenance, "ahead": places.get(build.id)}

    @router.post("/datasets/{any_id}/cancel", tags=["datasets"])
    async def cancel(any_id: str, work: HttpWork, caller: Writer) -> Json:
        """End a build that waits or runs."""
        build = await service.build(work, any_id)
        caller.demand("data:write", build.model)
        return build_view(await service.cancel(work, build.id, caller.subject))

    @router.get("/datasets/{any_id}/diff", tags=["datasets"])
    async def diff(
        any_id: str, against: str, work: HttpWork, response: Response, caller: ReaderOfSome
    ) -> Json:
        """What is other than in the dataset `against`; 202 with the state `comparing` while that is found out."""
        new, old = await service.build(work, any_id), await service.build(work, against)
        for build in (new, old):
            caller.demand("data:read", build.model)
        result = await comparer.compare(new, old)
        response.status_code = 202 if result is None else 200
        names = {"digest": new.digest, "against": old.digest}
        return {**names, "state": "comparing"} if result is None else {**names, "state": "done", **result}

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


def provenance_view(build: Build, provenance: Provenance) -> Json:
    """Where a build comes from, and where its dataset is: `key` is the prefix of its files in the object store."""
    drift = provenance.drift
    return {
        "key": f"{DATASETS}/sha256/{build.digest}/" if build.digest else None,
        "sources": [
            {**file_view(file), "sha256": file.sha256, "created_by": file.created_by}
            for file in provenance.files
        ],
        "drift": drift.model_dump(mode="json", exclude={"model"}) if drift else None,
        "correlation_id": (build.cause or {}).get("correlationid"),
    }


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
