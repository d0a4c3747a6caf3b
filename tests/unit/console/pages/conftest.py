"""A console whose front door answers what a test says: pages are drawn from documents, here without services."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from joserfc.jwk import OKPKey

from services.console.app import create_app
from services.console.session import COOKIE
from services.console.settings import Settings
from shared.http.minting import SCOPES
from shared.http.tokens import mint


@dataclass
class Door:
    """`says["registry", "/models"] = {...}` is a good answer, a number is a status, None is no answer at all."""

    says: dict[tuple[str, str], Any] = field(default_factory=dict)
    asked: list[tuple[str, str, str, dict[str, str], Any]] = field(default_factory=list)
    """method, service, path, parameters, body"""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        _, _, service, rest = request.url.path.split("/", 3)
        path = f"/{rest}"
        body = json.loads(request.content) if request.content else None
        self.asked.append((request.method, service, path, dict(request.url.params), body))
        answer = self.says.get((service, path), 404)
        if answer is None:
            raise httpx2.ConnectError("nobody is there")
        if isinstance(answer, int):
            problem = {"detail": f"{service} said {answer}.", "next_step": "Do this next.", "status": answer}
            return httpx2.Response(answer, json=problem)
        if isinstance(answer, str):
            return httpx2.Response(200, text=answer)
        return httpx2.Response(200, json=answer)


@dataclass
class Browser:
    """Signed in with every scope, unless `signs_in` says otherwise."""

    http: TestClient
    door: Door
    key: OKPKey

    def signs_in(self, *scopes: str) -> None:
        app: Any = self.http.app
        self.http.cookies.set(COOKIE, app.state.sessions.seal(self.token(*scopes)))

    def token(self, *scopes: str) -> str:
        return mint(self.key, "ann", scopes, 600)

    def sees(self, path: str, status: int = 200) -> str:
        """The page, as HTML."""
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def sends(self, path: str, **fields: str) -> httpx2.Response:
        """A form of the page, as a browser sends it."""
        answer: Any = self.http.post(path, data=fields, headers={"sec-fetch-site": "same-origin"})
        return answer


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    for name in ("DRIFTWHEEL_URL", "DRIFTWHEEL_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    key = OKPKey.generate_key("Ed25519", {"use": "sig", "alg": "Ed25519"}, private=True, auto_kid=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    app = create_app(Settings(auth_jwks_file=tmp_path / "jwks.json"))
    door = Door()
    app.state.upstream._http = httpx2.AsyncClient(
        base_url="http://door", transport=httpx2.MockTransport(door)
    )
    with TestClient(app, follow_redirects=False) as http:
        browser = Browser(http, door, key)
        browser.signs_in(*sorted(SCOPES))
        yield browser


@pytest.fixture
def door(browser: Browser) -> Door:
    return browser.door
