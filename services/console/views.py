"""How pages are drawn: one Jinja environment, the filters that templates use, and the frame around every page."""

import functools
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from services.console.formats import ago, behind, clock, duration, number, percent, short, size, timestamp
from services.console.session import Visitor

ROOT = Path(__file__).parent
MENU: dict[str, str] = {
    "/": "The loop",
    "/datasets": "Datasets",
    "/runs": "Runs",
    "/evaluations": "Evaluations",
    "/models": "Models",
    "/rollouts": "Rollouts",
    "/drift": "Drift",
    "/trace": "Trace",
    "/events": "Events",
    "/dead-letters": "Dead letters",
}


def page(
    request: Request,
    visitor: Visitor,
    template: str,
    *,
    title: str,
    live: Sequence[str] = (),
    command: str = "",
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """A page in its frame.

    Args:
        live: services whose news make the page draw itself again.
        command: what to type in a terminal to see the same.
    """
    menu = [(path, name, _is_here(request.url.path, path)) for path, name in MENU.items()]
    body = (
        templates()
        .get_template(template)
        .render(
            title=title,
            live=" ".join(live),
            command=command,
            menu=menu,
            visitor=visitor,
            here=_here(request),
            said=request.query_params.get("said", ""),
            **context,
        )
    )
    return HTMLResponse(body, status)


def back_to(path: str, said: str) -> RedirectResponse:
    """After a form: the page again, with one line that says what came of it."""
    from urllib.parse import quote

    mark = "&" if "?" in path else "?"
    return RedirectResponse(f"{path}{mark}said={quote(said)}", 303)


@functools.cache
def templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"static": static, "now": lambda: datetime.now(UTC)}
    environment.filters |= {
        "ago": ago,
        "behind": behind,
        "clock": clock,
        "duration": duration,
        "number": number,
        "percent": percent,
        "short": short,
        "size": size,
        "timestamp": timestamp,
    }
    return environment


@functools.cache
def static(name: str) -> str:
    """The address of a file in static/, which changes with its content: browsers may keep it for ever."""
    digest = hashlib.sha256((ROOT / "static" / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def _is_here(path: str, menu_path: str) -> bool:
    return path == menu_path if menu_path == "/" else path == menu_path or path.startswith(menu_path + "/")


def _here(request: Request) -> str:
    """This page's own address, without the line a form left on it."""
    from urllib.parse import urlencode

    query = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "said"])
    return f"{request.url.path}?{query}" if query else request.url.path
