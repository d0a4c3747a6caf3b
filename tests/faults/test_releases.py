"""The release before this one and this one, side by side on the same topics, databases and store: the loop closes, and
neither buries what the other says."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.base_model.tiny import make_tiny
from infra.local.credentials import SERVICES
from infra.local.part import Launch
from infra.local.parts.service import Service, Worker
from infra.local.settings import LocalSettings
from infra.local.site import Site
from infra.local.stack import Stack
from tests.loop import Platform, until

ROOT = Path(__file__).parents[2]
PREVIOUS = (Path(__file__).with_name("previous_release")).read_text().split()[0]
NEW_SETTINGS = ("DRIFTWHEEL_SERVING__SIGNING_KEY_FILE",)
"""What the previous release does not know: nobody who operates it would have set them."""
pytestmark = [pytest.mark.faults, pytest.mark.soak, pytest.mark.timeout(900)]


def _environment(today: Launch, code: Path) -> dict[str, str]:
    known = {name: value for name, value in today.environment.items() if name not in NEW_SETTINGS}
    return {**known, "PYTHONPATH": str(code)}


class _Previous(Service):
    """A service as it was released before, beside today's; today's has migrated their database."""

    def __init__(self, service: str, code: Path) -> None:
        super().__init__(service)
        self.name, self.ports = f"{service}-previous", (f"{service}-previous",)
        self.needs = (*Service.needs, service)
        self._code = code

    def prepare(self, site: Site) -> None:
        """Only the newest release migrates."""

    def launch(self, site: Site) -> Launch:
        today = super().launch(site)
        command = [sys.executable, "-m", f"services.{self.service}.app"]
        return Launch(command, _environment(today, self._code), self._code)


class _PreviousWorker(Worker):
    def __init__(self, service: str, code: Path) -> None:
        super().__init__(service)
        self.name = f"{service}-worker-previous"
        self._code = code

    def launch(self, site: Site) -> Launch:
        today = super().launch(site)
        return Launch(today.command, _environment(today, self._code), self._code, cpus=today.cpus)


@pytest.fixture(scope="module")
def previous() -> Iterator[Path]:
    """The code of the release before, as git has it."""
    folder = Path(tempfile.mkdtemp(prefix="driftwheel-previous-"))
    archive = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("not a clone with its history")
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mixed(previous: Path) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-mixed-"))
    make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
    old = [_Previous(service, previous) for service in SERVICES]
    workers = [_PreviousWorker(service, previous) for service in ("trainer", "evaluator")]
    with Stack(
        home, more=[*old, *workers], engine="transformers", base_model=home / "tiny-model", http_port=18780
    ) as stack:
        stack.start()
        stack.start(*(part.name for part in (*old, *workers)))
        yield stack
    shutil.rmtree(home, ignore_errors=True)


async def test_the_loop_closes_while_two_releases_share_everything(mixed: Stack) -> None:
    platform = Platform(mixed)
    for number in range(3):
        model = f"both-{number}"
        await platform.declare(model)
        await platform.upload(model)

        async def promoted(model: str = model) -> bool:
            return await platform.champion(model) == 1

        await until(promoted, f"the promotion of {model}", 240)
        message = {"role": "user", "content": "what is my balance"}
        answer = await platform.post(
            "/v1/chat/completions", json={"model": model, "messages": [message], "max_tokens": 4}
        )
        assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
    dead: dict[str, Any] = {}
    for service in SERVICES:
        dead[service] = (await platform.get(f"/api/{service}/dead-letters"))["dead_letters"]
    assert dead == {service: [] for service in SERVICES}
    await platform.http.aclose()
