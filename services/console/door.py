"""The front door: where it is, who we are there, and what its answers mean for the exit code."""

import json
import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import typer
from rich.console import Console

from shared.auth import SCOPES, mint
from shared.text import Json

SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")
TOKEN_SECONDS = 600.0

out = Console(highlight=False)
"""Data for people, on stdout."""
err = Console(stderr=True, highlight=False)
"""Progress and errors, on stderr."""


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
    err.print(f"[red]✗[/] {message}", markup=True, soft_wrap=True)
    if next_step:
        err.print(f"  {next_step}", markup=False, style="dim", soft_wrap=True)
    raise typer.Exit(int(code))


def show_json(value: Any) -> None:
    """Data for programs: one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


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
            Exit.UNAVAILABLE, "No platform is known here.", "Start one: driftwheel up. Or set DRIFTWHEEL_URL."
        )
    return str(found).rstrip("/")


def signing_key() -> Any:
    """The private key of the local stack, or None."""
    from joserfc.jwk import OKPKey

    file = home() / "secrets" / "signing-key.json"
    return OKPKey.import_key(json.loads(file.read_text())) if file.is_file() else None


def token() -> str:
    """DRIFTWHEEL_TOKEN, or a short-lived one signed with the local stack's key."""
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
    return mint(key, os.environ.get("USER", "operator"), sorted(SCOPES), TOKEN_SECONDS)


def client(timeout: float = 60) -> httpx2.Client:
    return httpx2.Client(base_url=url(), headers={"authorization": f"Bearer {token()}"}, timeout=timeout)


def call(method: str, path: str, **request: Any) -> Any:
    """JSON of one request; an error ends the command with its exit code."""
    try:
        with client() as http:
            response = http.request(method, path, **request)
    except httpx2.TransportError as error:
        fail(
            Exit.UNAVAILABLE, f"{url()} does not answer ({type(error).__name__}).", "Look: driftwheel status."
        )
    if response.is_error:
        refuse(response)
    return response.json()


def get(path: str, **params: Any) -> Any:
    return call("GET", path, params={name: value for name, value in params.items() if value is not None})


def post(path: str, body: Json | None = None) -> Any:
    return call("POST", path, json=body or {})


def refuse(response: httpx2.Response) -> NoReturn:
    """End the command as the service's answer says."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    openai = body.get("error", {}) if isinstance(body.get("error"), dict) else {}
    detail = body.get("detail") or openai.get("message") or f"{response.status_code} from {response.url.path}"
    kind = str(body.get("type", openai.get("code", "")))
    by_status = {
        400: Exit.USAGE,
        404: Exit.NOT_FOUND,
        409: Exit.GATE if kind.endswith("gate_refused") else Exit.CONFLICT,
        422: Exit.USAGE,
        429: Exit.UNAVAILABLE,
        502: Exit.UNAVAILABLE,
        503: Exit.UNAVAILABLE,
    }
    fail(by_status.get(response.status_code, Exit.FAILED), str(detail), str(body.get("next_step", "")))
