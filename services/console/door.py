"""The front door: where it is, who we are there, and what its answers mean for the exit code."""

import json
import os
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, urlsplit

import typer
from rich.markup import escape

from infra.local.state import home, read
from services.console.terminal import err
from shared.contracts.document import Json
from shared.contracts.topology import SERVICES

if TYPE_CHECKING:  # loaded by the first request: `status` and `doctor` make none
    from services.console.transport import Params, Response, Silent

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
    PIPE = 141


def fail(code: Exit, message: str, next_step: str = "") -> NoReturn:
    """End the command: what went wrong, and what to do next."""
    warn(message, next_step)
    raise typer.Exit(int(code))


def warn(message: str, next_step: str = "") -> None:
    """Say what went wrong, and go on."""
    err.print(f"[red]✗[/] {escape(message)}", soft_wrap=True)
    if next_step:
        err.print(f"  {next_step}", markup=False, style="dim", soft_wrap=True)


def stack_state() -> Json:
    return read(home())


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


def signing_key() -> Json | None:
    """The private key of the local stack as a JSON Web Key, or None."""
    file = home() / "secrets" / "signing-key.json"
    return json.loads(file.read_text()) if file.is_file() else None


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
    from shared.http.minting import SCOPES, mint  # brings cryptography, which a given token does not need

    return mint(key, os.environ.get("USER", "operator"), sorted(SCOPES), seconds)


def part(text: object) -> str:
    """One segment of a path: whatever was typed stays one segment."""
    return quote(str(text), safe="")


def headers() -> dict[str, str]:
    return {"authorization": f"Bearer {token()}"}


def call(method: str, path: str, **asked: Any) -> Any:
    """JSON of one request; an error ends the command with its exit code."""
    return json_of(send(method, path, **asked))


def send(method: str, path: str, timeout: float = 60, **asked: Any) -> "Response":
    """A good answer; a bad one, or none, ends the command with its exit code."""
    from services.console import transport

    try:
        response = transport.request(method, url() + path, headers=headers(), timeout=timeout, **asked)
    except transport.Silent as error:
        silent(error)
    if not response.good:
        refuse(response)
    return response


def json_of(response: "Response") -> Any:
    try:
        return response.json()
    except ValueError:
        fail(Exit.FAILED, f"{url()} does not speak JSON.", "Is it the front door? Look: driftwheel status.")


def silent(error: "Silent") -> NoReturn:
    """End the command: nobody answered."""
    fail(Exit.UNAVAILABLE, f"{url()} does not answer ({error}).", LOOK)


def get(path: str, **params: Any) -> Any:
    return call("GET", path, params={name: value for name, value in params.items() if value is not None})


def post(path: str, body: Json | None = None) -> Any:
    return call("POST", path, json_body=body or {})


def everywhere(path: str, params: "Params | None" = None) -> dict[str, Json | None]:
    """What each service answers to the same GET; None from one that does not answer. A refusal ends the command."""
    from concurrent.futures import ThreadPoolExecutor

    from services.console import transport

    here, ours = url(), headers()

    def ask(service: str) -> "Response | None":
        try:
            return transport.request(
                "GET", f"{here}/api/{service}{path}", headers=ours, timeout=10, params=params
            )
        except transport.Silent:
            return None

    found: dict[str, Json | None] = {}
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        for service, response in zip(SERVICES, pool.map(ask, SERVICES), strict=True):
            if response is not None and 400 <= response.status < 500:
                refuse(response)
            found[service] = json_of(response) if response is not None and response.good else None
    return found


def refuse(response: "Response") -> NoReturn:
    """End the command as the service's answer says."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    openai = body.get("error", {}) if isinstance(body.get("error"), dict) else {}
    detail = body.get("detail") or openai.get("message") or f"{response.status} from {response.path}"
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
    code = by_status.get(response.status, Exit.FAILED)
    next_step = body.get("next_step") or (LOOK if code is Exit.UNAVAILABLE else "")
    fail(code, str(detail), str(next_step))
