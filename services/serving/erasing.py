"""HTTP edge: the erasure of what a subject said."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from services.serving.erasure import Eraser
from shared.contracts.text import Contract, Json, ModelName, Text
from shared.http.auth import Caller, requires

Admin = Annotated[Caller, requires("admin")]


class EraseRequest(Contract):
    """Whose texts of which model to erase: a token's subject, or the `user` of requests. A dry run unless told otherwise."""

    model: ModelName
    subject: Annotated[Text, Field(min_length=1, max_length=256)]
    dry_run: bool = True


def make_erasure_api(eraser: Eraser) -> APIRouter:
    router = APIRouter(tags=["subjects"])

    @router.post("/subjects/erase")
    async def erase(body: EraseRequest, caller: Admin) -> Json:
        """Texts of questions, answers and corrections, for good. `answers` are the ids of those whose texts are concerned."""
        if body.dry_run:
            found = await eraser.would_erase(body.model, body.subject)
        else:
            found = await eraser.erase(body.model, body.subject, caller.subject)
        return {"dry_run": body.dry_run, "answers": list(found.answers), "corrections": found.corrections}

    return router
