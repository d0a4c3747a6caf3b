"""A command starts fast: it loads what it needs, and no other command's share. Modules are counted, never seconds."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from joserfc.jwk import OKPKey

from services.console.catalogue import ENTRIES, load
from shared.contracts.events import EVENTS
from shared.contracts.topology import SERVICES, TOPICS
from tests.unit.console.conftest import Command, Door

HEAVY = frozenset(
    {
        "aiokafka", "asyncio", "evidently", "fastapi", "faststream", "httpx2", "joserfc", "numpy", "pandas",
        "procrastinate", "psycopg", "pydantic", "pydantic_settings", "sqlalchemy", "structlog", "torch",
    }
)  # fmt: skip
_LOADED = """
import sys
from services.console.cli import main
sys.argv = ["driftwheel", *sys.argv[1:]]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def loaded(arguments: tuple[str, ...], environment: Mapping[str, str]) -> set[str]:
    """The packages that a process has loaded when the command ends."""
    told = subprocess.run(
        [sys.executable, "-c", _LOADED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=dict(environment),
    )
    return {name for line in told.stderr.splitlines()[-1:] for name in line.split()}


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ()], ids=" ".join)
def test_help_loads_typer_and_no_command(nowhere: Command, arguments: tuple[str, ...]) -> None:
    found = loaded(arguments, {})
    assert "services.console.catalogue" in found
    assert not found & (HEAVY | {"rich.console", "services.console.door"})
    assert not [name for name in found if name.startswith("services.console.commands.")]
    assert len(found) < 350


@pytest.mark.parametrize("name", ENTRIES)
def test_help_of_a_command_loads_that_one_alone(nowhere: Command, name: str) -> None:
    found = loaded((name, "--help"), {})
    mine = f"services.console.commands.{ENTRIES[name].module}"
    assert [other for other in found if other.startswith("services.console.commands.")] == [mine]
    assert not found & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [
        ("datasets", "list"),
        ("runs", "show", "run-1"),
        ("runs", "watch", "run-1"),
        ("models", "list"),
        ("rollouts", "list"),
        ("drifts", "show", "drift-1"),
        ("chat", "support", "why?"),
        ("feedback", "a-1", "--right"),
        ("dlq", "list"),
        ("consumers", "list"),
        ("outbox", "list"),
        ("trace", "x"),
        ("events", "replay", "--from", "x", "--service", "data"),
        ("token", "--scope", "chat"),
        ("status",),
        ("down",),
    ],
    ids=" ".join,
)
def test_what_only_speaks_http_loads_no_framework(
    driftwheel: Command, door: Door, key: OKPKey, arguments: tuple[str, ...]
) -> None:
    for service in SERVICES:
        door.answers["GET", f"/api/{service}/dead-letters"] = {"dead_letters": []}
    found = loaded(arguments, {"DRIFTWHEEL_HOME": str(driftwheel.home)})
    assert "services.console.cli" in found
    assert not found & HEAVY
    assert len(found) < 500


@pytest.mark.parametrize("arguments", [("events", "tail"), ("doctor",)], ids=" ".join)
def test_what_reads_kafka_or_the_machine_loads_no_framework_of_services(
    nowhere: Command, arguments: tuple[str, ...]
) -> None:
    found = loaded(arguments, {"DRIFTWHEEL_HOME": str(nowhere.home)})
    assert "pydantic_settings" in found
    assert not found & (HEAVY - {"aiokafka", "asyncio", "pydantic", "pydantic_settings"} | {"aiohttp"})


def test_the_catalogue_says_what_the_commands_say() -> None:
    for name, entry in ENTRIES.items():
        assert (load(name).help or "").partition("\n")[0] == entry.help, name


def test_the_topics_are_those_of_the_events() -> None:
    assert tuple(event.topic for event in EVENTS) == TOPICS


def test_the_version_is_said(nowhere: Command) -> None:
    assert nowhere("--version").stdout.startswith("driftwheel 0.")
    assert json.dumps(nowhere("-h").exit_code) == "0"
