"""What others wrote reaches a terminal as text: no title is set, no screen cleared, no line turned around."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from services.console.terminal import Terminal, harmless
from tests.unit.console.conftest import Command, Door
from tests.unit.console.test_commands import BUILD, MODEL, MOVED, RUN, VERSION
from tests.unit.console.test_dlq import LETTER

HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x9b2J\r\x7f\u202eevil[bold red]MARKUP[/] [link=http://x]l[/link]"
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_OURS = re.compile("\x1b\\[[0-9;]*m|\x1b\\]8;[^\x1b]*\x1b\\\\")
FREE = {
    "reason",
    "detail",
    "actor",
    "description",
    "error",
    "excerpt",
    "filename",
    "source",
    "metric",
    "text",
}


def poisoned(value: Any) -> Any:
    """The document, with a hostile text wherever a person or a foreign producer may write."""
    if isinstance(value, dict):
        return {
            key: f"{item}{HOSTILE}" if key in FREE and isinstance(item, str) else poisoned(item)
            for key, item in value.items()
        }
    return [poisoned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "text", [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)]
)
def test_every_control_character_becomes_a_picture(text: str) -> None:
    assert not _RAW.search(harmless(text))
    assert len(harmless(text)) == 1


def test_words_of_all_languages_stay() -> None:
    for text in ("grüß dich 🙂", "שלום", "مرحبا", "日本語\n\tzwei"):
        assert harmless(text) == text


def test_colours_of_ours_stay(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Terminal(force_terminal=True, color_system="standard", width=200)
    grid = Table()
    grid.add_column("x")
    grid.add_row(HOSTILE.partition("[bold")[0])
    screen.print("[green]✓[/]", grid)
    told = capsys.readouterr().out
    assert "\x1b[32m" in told
    assert not _RAW.search(_OURS.sub("", told))


@pytest.mark.parametrize(
    ("command", "answers"),
    [
        (
            ("models", "show", "support"),
            {
                "/api/registry/models/support": MODEL,
                "/api/registry/models/support/versions": {"versions": [VERSION]},
                "/api/registry/models/support/aliases": {"events": [MOVED]},
            },
        ),
        (("models", "show", "support:1"), {"/api/registry/models/support/versions/1": VERSION}),
        (("datasets", "show", "build-1"), {"/api/data/datasets/build-1": BUILD}),
        (("runs", "show", "run-1"), {"/api/trainer/runs/run-1": RUN}),
        (("dlq", "show", "data", "e-1"), {"/api/data/dead-letters/e-1": LETTER}),
        (
            ("chat", "support", "hi"),
            {"/v1/chat/completions": {"choices": [{"message": {"content": HOSTILE}}]}},
        ),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_no_command_passes_it_on(
    driftwheel: Command, door: Door, command: tuple[str, ...], answers: Any
) -> None:
    for path, document in answers.items():
        door.answers["POST" if path.startswith("/v1") else "GET", path] = poisoned(document)
    for arguments in (command, (*command, "--json")):
        told = driftwheel(*arguments)
        assert told.exit_code == 0, told.output
        assert "PWNED" in told.output
        assert not _RAW.search(told.output)
    json.loads(told.stdout)


def test_an_error_of_a_service_is_text_too(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/trainer/runs/run-1"] = (409, {"detail": HOSTILE, "next_step": HOSTILE})
    told = driftwheel("runs", "show", "run-1")
    assert "PWNED" in told.stderr
    assert not _RAW.search(told.output)


def test_nothing_is_printed_around_it() -> None:
    """One door to the terminal: no command prints by itself."""
    folder = Path(__file__).parents[3] / "services" / "console"
    found = [
        f"{file.name}: {line.strip()}"
        for file in folder.rglob("*.py")
        if file.name != "terminal.py"
        for line in file.read_text().splitlines()
        if re.search(
            r"typer\.echo|typer\.secho|sys\.std(out|err)\.write|(?<![.\w])print\(|(?<!\w)Console\(", line
        )
    ]
    assert not found
