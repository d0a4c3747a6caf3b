"""The front door: where it is, who we are there, and what its answers mean for the exit code."""

import asyncio
import json
import os
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx2
import typer
from rich.markup import escape

from services.console.terminal import err
from services.console.upstream import SERVICES
from shared.contracts.text import Json

TOKEN_SECONDS = 600.0
LOOK = "Look: driftwheel status."


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    GATE = 6
    INTERRUPTED = 130


def fail(code: Exit, message: str, next_step: str = "") -> NoReturn:
    """End the command: what went wrong, and what to do next."""
    warn(message, next_step)
    raise typer.Exit(int(code))


def warn(message: str, next_step: str = "") -> None:
    """Say what went wrong, and go on."""
    err.print(f"[red]✗[/] {escape(message)}", soft_wrap=True)
    if next_step:
        err.print(f"  {next_step}", markup=False, style="dim", soft_wrap=True)


def home() -> Path:
    from infra.local.settings import LocalSettings

    return LocalSettings().home


def stack_state() -> Json:
    file = home() / "stack.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def url() -> str:
    given = os.environ.get("DRIFTWHEEL_URL")
    found = given or stack_state().get("urls", {}).get("caddy")
    if not found:
        fail(
            Exit.UNAVAILABLE,
            "No platform is known here.",
            "Start one: driftwheel up. Or name one: driftwheel --url URL …",
        )
    try:
        parts = urlsplit(str(found))
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        fail(Exit.USAGE, f"{found} is not the address of a front door.", "Write http://host:port.")
    return str(found).rstrip("/")


def signing_key() -> Any:
    """The private key of the local stack, or None."""
    from joserfc.jwk import OKPKey

    file = home() / "secrets" / "signing-key.json"
    return OKPKey.import_key(json.loads(file.read_text())) if file.is_file() else None


def token(seconds: float = TOKEN_SECONDS) -> str:
    """DRIFTWHEEL_TOKEN, or one that lives for `seconds`, signed with the local stack's key."""
    given = os.environ.get("DRIFTWHEEL_TOKEN")
    if given:
        return given
    key = signing_key()
    if key is None:
        fail(
            Exit.FAILED,
            "There is no token.",
            "Set DRIFTWHEEL_TOKEN, or start the local stack: driftwheel up.",
        )
    from shared.http.tokens import SCOPES, mint  # brings cryptography, which a given token does not need

    return mint(key, os.environ.get("USER", "operator"), sorted(SCOPES), seconds)


def client(timeout: float = 60) -> httpx2.Client:
    return httpx2.Client(base_url=url(), headers=_headers(), timeout=timeout)


def _headers() -> dict[str, str]:
    return {"authorization": f"Bearer {token()}"}


def part(text: object) -> str:
    """One segment of a path: whatever was typed stays one segment."""
    return quote(str(text), safe="")


def call(method: str, path: str, **request: Any) -> Any:
    """JSON of one request; an error ends the command with its exit code."""
    return json_of(send(method, path, **request))


def send(method: str, path: str, timeout: float = 60, **request: Any) -> httpx2.Response:
    """A good answer; a bad one, or none, ends the command with its exit code."""
    try:
        with client(timeout) as http:
            response = http.request(method, path, **request)
    except httpx2.TransportError as error:
        silent(error)
    if not response.is_success:
        refuse(response)
    return response


def json_of(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        fail(Exit.FAILED, f"{url()} does not speak JSON.", "Is it the front door? Look: driftwheel status.")


def silent(error: httpx2.TransportError) -> NoReturn:
    """End the command: nobody answered."""
    fail(Exit.UNAVAILABLE, f"{url()} does not answer ({type(error).__name__}).", LOOK)


def get(path: str, **params: Any) -> Any:
    return call("GET", path, params={name: value for name, value in params.items() if value is not None})


def post(path: str, body: Json | None = None) -> Any:
    return call("POST", path, json=body or {})


async def everywhere(path: str, params: Any = None) -> dict[str, Json | None]:
    """What each service answers to the same GET; None from one that does not answer. A refusal ends the command."""
    async with httpx2.AsyncClient(base_url=url(), headers=_headers(), timeout=10) as http:

        async def ask(service: str) -> Json | None:
            try:
                response = await http.get(f"/api/{service}{path}", params=params)
            except httpx2.TransportError:
                return None
            if response.is_client_error:
                refuse(response)
            answer: Json | None = json_of(response) if response.is_success else None
            return answer

        return dict(zip(SERVICES, await asyncio.gather(*(ask(name) for name in SERVICES)), strict=True))


def refuse(response: httpx2.Response) -> NoReturn:
    """End the command as the service's answer says."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    openai = body.get("error", {}) if isinstance(body.get("error"), dict) else {}
    detail = body.get("detail") or openai.get("message") or f"{response.status_code} from {response.url.path}"
    kind = str(body.get("type") or openai.get("code") or "")
    by_status = {
        400: Exit.USAGE,
        404: Exit.NOT_FOUND,
        409: Exit.GATE if kind.endswith("gate_refused") else Exit.CONFLICT,
        413: Exit.USAGE,
        422: Exit.USAGE,
        429: Exit.UNAVAILABLE,
        502: Exit.UNAVAILABLE,
        503: Exit.UNAVAILABLE,
        504: Exit.UNAVAILABLE,
    }
    code = by_status.get(response.status_code, Exit.FAILED)
    next_step = body.get("next_step") or (LOOK if code is Exit.UNAVAILABLE else "")
    fail(code, str(detail), str(next_step))
