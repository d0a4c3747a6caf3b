"""The few HTTP requests the supervisor makes, all to loopback."""

import json
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from infra.local.part import NotReady

_OPENER = build_opener(ProxyHandler({}))  # never through a proxy of the user's environment


def fetch(url: str, body: dict[str, Any] | None = None, timeout_seconds: float = 5.0) -> str:
    """GET, or POST JSON when a body is given; raises NotReady or urllib's errors unless the answer is 2xx."""
    data = json.dumps(body).encode() if body is not None else None
    with _OPENER.open(
        Request(url, data, {"content-type": "application/json"}), timeout=timeout_seconds
    ) as answer:
        if not 200 <= answer.status < 300:
            raise NotReady(f"{url} answered {answer.status}")
        return str(answer.read().decode())


def ask(url: str, timeout_seconds: float = 5.0) -> tuple[bool, dict[str, Any]]:
    """Whether a probe says yes, and its JSON document, empty when there is none; raises urllib's errors without an answer."""
    try:
        with _OPENER.open(url, timeout=timeout_seconds) as answer:
            return True, _document(answer.read())
    except HTTPError as refused:
        with refused:
            return False, _document(refused.read())


def _document(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
