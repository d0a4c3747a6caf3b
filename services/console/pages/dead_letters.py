"""Dead letters of all services: what died, why, and sending it again, one or many after a look at what that would be."""

import asyncio
import json
import shlex
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from services.console.formats import duration
from services.console.merged import newest, silent
from services.console.session import Monitoring, Visitor, from_our_pages, visits
from services.console.upstream import Answer, segment
from services.console.views import back_to, page
from shared.contracts.errors import NotFound
from shared.contracts.text import Json
from shared.contracts.topology import SERVICES

router = APIRouter()
Admin = Annotated[Visitor, visits("admin")]
Typed = Annotated[str, Query(max_length=200)]
Field = Annotated[str, Form(max_length=200)]
FILTERS = ("topic", "error", "correlation", "source")
_PAGE = 50


@router.get("/dead-letters")
async def letters(
    request: Request,
    visitor: Monitoring,
    service: Typed = "",
    topic: Typed = "",
    error: Typed = "",
    correlation: Typed = "",
    source: Typed = "",
    after: Annotated[str, Query(max_length=1_200)] = "",
) -> HTMLResponse:
    filters = _given(topic, error, correlation, source)
    asked = {**filters, "after": after or None, "limit": _PAGE}
    answers, pulses = await asyncio.gather(
        _ask(visitor, service, "/dead-letters", asked), visitor.everywhere("/pulse")
    )
    rows, following = newest(answers, "dead_letters", "handled_at", _PAGE)
    kept = {**({"service": service} if service in SERVICES else {}), **filters}
    return page(
        request,
        visitor,
        "dead_letters.html",
        title="Dead letters",
        live=() if after else SERVICES,
        command=_listed(kept),
        rows=rows,
        silent=silent(answers),
        counts={name: pulse.data["dead_letters"] if pulse.data else None for name, pulse in pulses.items()},
        services=SERVICES,
        filters={"service": service, **dict.fromkeys(FILTERS, ""), **filters},
        filtered=bool(kept),
        after=after,
        first="/dead-letters?" + urlencode(kept) if after else "",
        older="/dead-letters?" + urlencode({**kept, "after": following}) if following else "",
        redrive="/dead-letters/redrive?" + urlencode(kept),
    )


@router.get("/dead-letters/redrive")
async def preview(
    request: Request,
    visitor: Admin,
    service: Typed = "",
    topic: Typed = "",
    error: Typed = "",
    correlation: Typed = "",
    source: Typed = "",
) -> HTMLResponse:
    """What a redrive would send. It changes nothing."""
    filters = _given(topic, error, correlation, source)
    names = [service] if service in SERVICES else SERVICES
    answers = await _dry(visitor, names, filters)
    found = {name: answer for name, answer in answers.items() if not answer.good or answer.data["messages"]}
    kept = {**({"service": service} if service in SERVICES else {}), **filters}
    return page(
        request,
        visitor,
        "dead_letters_redrive.html",
        title="Redrive what matches",
        command=_redriven(kept),
        found=found,
        counts={name: answer.data["messages"] for name, answer in found.items() if answer.data},
        filters=kept,
        back="/dead-letters?" + urlencode(kept),
    )


@router.post("/dead-letters/redrive")
async def redrive_many(
    request: Request,
    visitor: Admin,
    rate: Annotated[float, Form(ge=0.1, le=1_000)],
    service: Field = "",
    topic: Field = "",
    error: Field = "",
    correlation: Field = "",
    source: Field = "",
) -> RedirectResponse:
    """As many as the preview showed, the oldest first: what died since then stays."""
    from_our_pages(request)
    form = await request.form()
    filters = _given(topic, error, correlation, source)
    counts = {name: _count(form.get(f"count-{name}")) for name in SERVICES}
    answers = await asyncio.gather(
        *(
            visitor.post(name, "/dead-letters/redrive", {**filters, "limit": count, "per_second": rate})
            for name, count in counts.items()
            if count
        )
    )
    kept = {**({"service": service} if service in SERVICES else {}), **filters}
    return back_to("/dead-letters" + (f"?{urlencode(kept)}" if kept else ""), _outcome(answers, rate))


@router.get("/dead-letters/{service}/{event_id:path}")
async def letter(request: Request, visitor: Monitoring, service: str, event_id: str) -> HTMLResponse:
    path = f"/dead-letters/{segment(event_id)}"
    found = await visitor.get(_known(service), path)
    return page(
        request,
        visitor,
        "dead_letters_one.html",
        title=f"Dead letter {event_id[:40]}",
        status=404 if found.missing else 200,
        live=(service,),
        command=f"driftwheel dlq show {service} {shlex.quote(event_id)}",
        found=found,
        service=service,
        path=f"/dead-letters/{service}/{segment(event_id)}",
        text=_pretty(found.data["payload"]) if found.data else "",
    )


@router.post("/dead-letters/{service}/{event_id:path}/redrive")
async def redrive(request: Request, visitor: Admin, service: str, event_id: str) -> RedirectResponse:
    from_our_pages(request)
    answer = await visitor.post(_known(service), f"/dead-letters/{segment(event_id)}/redrive")
    said = f"Sent to {answer.data['topic']} again." if answer.data else f"Not sent: {answer.detail}"
    return back_to(f"/dead-letters/{service}/{segment(event_id)}", said)


async def _ask(visitor: Visitor, service: str, path: str, asked: Json) -> Mapping[str, Answer]:
    if service in SERVICES:
        return {service: await visitor.get(service, path, **asked)}
    return await visitor.everywhere(path, **asked)


async def _dry(visitor: Visitor, names: tuple[str, ...] | list[str], filters: Json) -> Mapping[str, Answer]:
    asked = {**filters, "dry_run": True}
    answers = await asyncio.gather(*(visitor.post(name, "/dead-letters/redrive", asked) for name in names))
    return dict(zip(names, answers, strict=True))


def _given(topic: str, error: str, correlation: str, source: str) -> Json:
    """The filters that were filled in."""
    values = (topic.strip(), error.strip(), correlation.strip(), source.strip())
    return {name: value for name, value in zip(FILTERS, values, strict=True) if value}


def _known(service: str) -> str:
    if service not in SERVICES:
        raise NotFound("There is no such service.", f"One of: {', '.join(SERVICES)}.")
    return service


def _count(value: object) -> int:
    return min(int(value), 10_000) if isinstance(value, str) and value.isdecimal() and len(value) < 9 else 0


def _outcome(answers: list[Answer], rate: float) -> str:
    sent = {answer.service: answer.data["messages"] for answer in answers if answer.good}
    parts = [f"{name} {count}" for name, count in sent.items()]
    told = f"{sum(sent.values())} go again ({', '.join(parts)})" if any(sent.values()) else "Nothing was sent"
    if any(sent.values()):
        told += f", the last one in {duration(max(sent.values()) / rate)}"
    refused = [f" {answer.service} did not: {answer.detail}" for answer in answers if not answer.good]
    return f"{told}.{''.join(refused)}"


def _pretty(payload: Json | None) -> str:
    """JSON with a line for each value; anything else as it is."""
    if payload is None:
        return ""
    text = str(payload["text"])
    if payload["cut"] or payload["encoding"] != "utf-8":
        return text
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _listed(kept: Mapping[str, str]) -> str:
    shown = {name: kept[name] for name in ("service", "topic", "error") if name in kept}
    return " ".join(
        ["driftwheel dlq list", *(f"--{name} {shlex.quote(value)}" for name, value in shown.items())]
    )


def _redriven(kept: Mapping[str, str]) -> str:
    shown = {
        "service": "SERVICE",
        **{name: kept[name] for name in ("service", "topic", "error") if name in kept},
    }
    options = (f"--{name} {shlex.quote(value)}" for name, value in shown.items())
    return " ".join(["driftwheel dlq redrive", *options, "--dry-run"])
