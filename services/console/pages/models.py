"""Models: who is champion and since when, every version with where it came from and where its traffic went, and back."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from services.console.formats import parsed
from services.console.lineage import lineage
from services.console.pages.evaluations import SUBJECTS, address, metrics
from services.console.session import Visitor, from_our_pages, visits
from services.console.upstream import Answer, segment
from services.console.views import back_to, page
from shared.contracts.text import Json

router = APIRouter()
Reading = Annotated[Visitor, visits("model:read")]
Writing = Annotated[Visitor, visits("model:write")]
_LARGEST = 2_147_483_647
Number = Annotated[int, Path(ge=1, le=_LARGEST)]
Optional = Annotated[int | None, Query(ge=1, le=_LARGEST)]

PAGE = 50
MOVES = 15
STATES = ("candidate", "approved", "rejected", "rolled_back")
HELD_OUT = {"test": "On its own test set", "champion_test": "On the champion's test set: what was forgotten"}


@router.get("/models")
async def models(request: Request, visitor: Reading, after: str = "") -> HTMLResponse:
    found = await visitor.get("registry", "/models", limit=PAGE, after=after or None)
    rows = found.data["models"] if found.good else []
    return page(
        request,
        visitor,
        "models.html",
        title="Models",
        live=("registry",),
        command="driftwheel models list",
        found=found,
        older=address("/models", after=rows[-1]["name"]) if len(rows) == PAGE else "",
    )


@router.get("/models/{name}")
async def model(
    request: Request,
    visitor: Reading,
    name: str,
    state: str = "",
    after: str = "",
    at: str = "",
    revision: Optional = None,
    before: Optional = None,
    older_than: Optional = None,
) -> HTMLResponse:
    path, policies = f"/models/{segment(name)}", f"/policies/{segment(name)}"
    then = parsed(at) if at else None
    listed = {"limit": PAGE, "state": state or None, "after": after or None}
    found = await _together(
        one=visitor.get("registry", path),
        versions=visitor.get("registry", f"{path}/versions", summary=True, **listed),
        history=visitor.get("registry", f"{path}/aliases", limit=MOVES, before=before),
        past=_past(visitor, path, then.isoformat() if then else None),
        policy=visitor.get("registry", policies, revision=revision),
        revisions=visitor.get("registry", f"{policies}/revisions", limit=MOVES, after=older_than),
        back=_preview(visitor, path),
    )
    one, policy = found["one"], found["policy"]
    rows = found["versions"].data["versions"] if found["versions"].good else []
    return page(
        request,
        visitor,
        "models_one.html",
        title=name,
        live=("registry",),
        command=f"driftwheel models show {one.data['name']}" if one.good else "driftwheel models list",
        status=404 if one.missing else 200,
        name=name,
        path=path,
        states=STATES,
        state=state,
        at=at,
        then=then,
        document=document(policy.data["policy"]) if policy.good else "",
        changed=await _changed(visitor, policies, policy),
        older=address(path, state=state, after=rows[-1]["adapter_digest"]) if len(rows) == PAGE else "",
        earlier=_earlier(path, found["history"]),
        older_revisions=_older_revisions(path, found["revisions"]),
        **found,
    )


@router.get("/models/{name}/versions/{number}")
async def version(request: Request, visitor: Reading, name: str, number: Number) -> HTMLResponse:
    path = f"/models/{segment(name)}"
    here = f"{path}/versions/{number}"
    one = await visitor.get("registry", here)
    parts = dict.fromkeys(("traffic", "card", "back"), one)
    if one.good:
        parts = await _together(
            traffic=visitor.get("registry", f"{here}/traffic"),
            card=visitor.get("registry", f"{here}/card"),
            back=_preview(visitor, path, number),
            data=visitor.get("data", f"/datasets/{segment(one.data['dataset_digest'])}"),
            run=visitor.get("trainer", f"/runs/{segment(one.data['run_id'])}"),
            evaluation=visitor.get("evaluator", f"/evaluations/{segment(one.data['evaluation_id'])}"),
        )
    return page(
        request,
        visitor,
        "models_version.html",
        title=f"{name}:{number}",
        live=("registry", "serving"),
        command=f"driftwheel models show {name}:{number}" if one.good else "driftwheel models list",
        status=404 if one.missing else 200,
        name=name,
        number=number,
        path=path,
        one=one,
        steps=lineage(one.data, parts) if one.good else [],
        measured={split: metrics(one.data, split) for split in HELD_OUT} if one.good else {},
        held_out=HELD_OUT,
        subjects=SUBJECTS,
        **{part: parts[part] for part in ("traffic", "card", "back")},
    )


@router.post("/models/{name}/rollback")
async def rollback(
    request: Request,
    visitor: Writing,
    name: str,
    reason: Annotated[str, Form()] = "",
    to: Annotated[int | None, Form()] = None,
    expected_champion: Annotated[int | None, Form()] = None,
) -> RedirectResponse:
    from_our_pages(request)
    path = f"/models/{segment(name)}"
    wish: Json = {"reason": reason.strip(), "to": to, "expected_champion": expected_champion}
    done = await visitor.post("registry", f"{path}/rollback", wish)
    if not done.good:
        return back_to(path, f"Not rolled back. {done.detail} {done.next_step}".strip())
    return back_to(path, f"Version {done.data['champion']} is champion now; traffic follows in seconds.")


async def _together(**asked: Awaitable[Answer]) -> dict[str, Answer]:
    """The answers to several questions, asked at once."""
    return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))


async def _preview(visitor: Visitor, path: str, to: int | None = None) -> Answer:
    """What a rollback would do, for those who may do it."""
    if not visitor.may("model:write"):
        return Answer("registry", 403)
    return await visitor.get("registry", f"{path}/rollback", to=to)


async def _past(visitor: Visitor, path: str, at: str | None) -> Answer:
    """Who held the aliases at a time; nothing if nobody asked."""
    return await visitor.get("registry", f"{path}/aliases", at=at, limit=0) if at else Answer("registry", 204)


async def _changed(visitor: Visitor, path: str, policy: Answer) -> list[tuple[str, str, str]]:
    """What this revision of the policy changed; nothing for the first one, or if nobody can say."""
    if not policy.good or policy.data["revision"] == 1:
        return []
    before = await visitor.get("registry", path, revision=policy.data["revision"] - 1)
    return changes(before.data["policy"], policy.data["policy"]) if before.good else []


def changes(before: Json, after: Json) -> list[tuple[str, str, str]]:
    """Path, old and new value of every leaf that differs, in the order of the document."""
    old, new = _leaves("", before), _leaves("", after)
    return [
        (path, old.get(path, "–"), new.get(path, "–"))
        for path in dict.fromkeys([*new, *old])
        if old.get(path) != new.get(path)
    ]


def _leaves(path: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        # Gates and the like are known by name, so that a new one in front does not change all others.
        inner = {str(one.get("name", place)): one for place, one in enumerate(value)}.items()
    else:
        return {path: document(value)}
    found: dict[str, str] = {}
    for name, one in inner:
        found |= _leaves(f"{path}.{name}" if path else str(name), one)
    return found


def document(value: Any) -> str:
    """As YAML, the way a policy file is written."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=68)
    return text.removesuffix("...\n").strip()


def _earlier(path: str, history: Answer) -> str:
    events = history.data["events"] if history.good else []
    full = len(events) == MOVES and events[0]["sequence"] > 1
    return address(path, before=str(events[0]["sequence"])) + "#history" if full else ""


def _older_revisions(path: str, revisions: Answer) -> str:
    found = revisions.data["revisions"] if revisions.good else []
    full = len(found) == MOVES and found[-1]["revision"] > 1
    return address(path, older_than=str(found[-1]["revision"])) + "#policy" if full else ""
