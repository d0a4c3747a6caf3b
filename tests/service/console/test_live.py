"""The command at the front door of real services; two of them are away on purpose."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra.local.site import ROOT, python_environment
from infra.local.stack import Stack
from services.console.cli import app
from services.console.door import Exit
from tests.conftest import KafkaBroker
from tests.loop import rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]
MODEL = "desk"


class Driftwheel:
    """Runs the command in this process: each start of a Python of its own would take seconds."""

    def __init__(self, stack: Stack) -> None:
        self.env = {"DRIFTWHEEL_HOME": str(stack.home), "NO_COLOR": "1", "COLUMNS": "160"}

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=self.env)

    def __call__(self, *arguments: str, code: int = Exit.OK) -> str:
        """Standard output of a command that must end with `code`."""
        done = self.run(*arguments)
        told = f"{' '.join(arguments)}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        assert done.exit_code == code, (told, done.exception)
        return done.stdout

    def json(self, *arguments: str, code: int = Exit.OK) -> Any:
        return json.loads(self(*arguments, "--json", code=code))


def until(look: Callable[[], Any], what: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def driftwheel(stack: Stack, kafka: KafkaBroker) -> Driftwheel:
    stack.start("data-worker", "registry", "trainer", "monitor", "caddy")
    return Driftwheel(stack)


def test_a_story_told_by_the_command_alone(driftwheel: Driftwheel, tmp_path: Path) -> None:
    policy, upload = tmp_path / "policy.yaml", tmp_path / "rows.jsonl"
    policy.write_text(f"model: {MODEL}\ndata: {{min_rows: 20}}\n")
    upload.write_bytes(rows())

    assert driftwheel.json("apply", str(policy))["changed"] is True
    assert driftwheel.json("apply", str(policy))["changed"] is False
    assert f"{MODEL} unchanged, revision 1" in driftwheel("apply", str(policy))
    policy.write_text(f"model: {MODEL}\ndrift: {{min_score: 2}}\n")
    driftwheel("apply", str(policy), code=Exit.USAGE)

    def declared() -> bool:
        """The policy is an event; data knows it a moment later."""
        return driftwheel.run("datasets", "upload", MODEL, str(upload), "--no-wait").exit_code == Exit.OK

    until(declared, "data to know the model", 300)
    build = driftwheel.json("datasets", "upload", MODEL, str(upload))
    assert build["state"] == "ready"
    assert MODEL in driftwheel("datasets", "list", "--model", MODEL)
    assert driftwheel.json("datasets", "show", build["digest"])["digest"] == build["digest"]
    assert "train" in driftwheel("datasets", "show", build["id"])
    driftwheel("datasets", "show", "nothing", code=Exit.NOT_FOUND)

    def accepted() -> Any:
        return driftwheel.json("runs", "list", "--model", MODEL)

    [run, *_] = until(accepted, "a run", 300)
    assert run["id"] in driftwheel("runs", "list")
    assert run["id"] in driftwheel("runs", "show", run["id"])
    driftwheel("runs", "cancel", run["id"])
    assert "cancelled" in driftwheel("runs", "watch", run["id"], code=Exit.FAILED)
    driftwheel("runs", "watch", "run-" + "0" * 24, code=Exit.NOT_FOUND)

    assert MODEL in driftwheel("models", "list")
    assert "No version yet" in driftwheel("models", "show", MODEL)
    driftwheel("models", "show", f"{MODEL}:7", code=Exit.NOT_FOUND)
    driftwheel("models", "show", "unknown", code=Exit.NOT_FOUND)
    driftwheel("models", "rollback", MODEL, "--reason", "test", code=Exit.CONFLICT)

    story = driftwheel.json("trace", build["digest"])
    assert story["unreachable"] == ["evaluator", "serving"]
    told = driftwheel("trace", run["id"])
    assert "dataset.ready" in told
    assert "training.status" in told
    assert "serving does not answer" in told
    driftwheel("trace", "nothing-of-the-kind", code=Exit.NOT_FOUND)

    [event] = [
        json.loads(line)
        for line in driftwheel(
            "events", "tail", "--topic", "model.declared", "--beginning", "--count", "1", "--json"
        ).splitlines()
    ]
    assert event["topic"] == "model.declared"
    assert event["body"]["revision"] == 1
    line = driftwheel("events", "tail", "--topic", "dataset.ready", "--beginning", "--count", "1")
    assert line.count("\n") == 1
    assert "dataset.ready" in line

    assert run["id"] in driftwheel("events", "search", "--id", run["id"], "--since", "1h")
    driftwheel("events", "search", "--header", "ce_source=/nobody", code=Exit.NOT_FOUND)

    def replayed() -> Any:
        told = driftwheel.json(
            "events",
            "replay",
            "--from",
            "2026-01-01",
            "--service",
            "trainer",
            "--topic",
            "dataset.ready",
            "--yes",
        )
        return told if told["records"] else None

    told = until(replayed, "the committed offset", 180)
    assert (told["new_effects"], told["dry_run"]) == (0, False)

    assert isinstance(driftwheel.json("dlq", "list", code=Exit.UNAVAILABLE), list)
    driftwheel("dlq", "redrive", "data", "nothing", code=Exit.NOT_FOUND)
    driftwheel("dlq", "show", "data", "nothing", code=Exit.NOT_FOUND)
    assert driftwheel.json("dlq", "redrive", "--service", "data", "--dry-run")["messages"] == 0
    driftwheel("chat", MODEL, "hello", code=Exit.UNAVAILABLE)
    driftwheel("feedback", "a-1", "--right", code=Exit.UNAVAILABLE)


def test_as_a_process_of_its_own(driftwheel: Driftwheel) -> None:
    command = [sys.executable, "-m", "services.console.cli", "status", "--json"]
    env = python_environment() | driftwheel.env
    done = subprocess.run(command, check=True, env=env, cwd=ROOT, capture_output=True, timeout=600)
    assert {"kafka", "postgres", "data", "caddy"} <= set(json.loads(done.stdout)["parts"])
    assert "caddy" in driftwheel("status")


def test_a_token_made_here_opens_the_door_and_its_scope_bounds_it(driftwheel: Driftwheel) -> None:
    narrow = driftwheel("token", "--scope", "run:read", "--ttl", "5m").strip()
    driftwheel.env["DRIFTWHEEL_TOKEN"] = narrow
    try:
        assert isinstance(driftwheel.json("runs", "list"), list)
        driftwheel("models", "list", code=Exit.FAILED)
    finally:
        del driftwheel.env["DRIFTWHEEL_TOKEN"]
