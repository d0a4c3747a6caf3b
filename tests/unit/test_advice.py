"""What an error or a hint tells people to look at exists: files, commands, addresses."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import fault

ROOT = Path(__file__).parents[2]
CODE = [
    file
    for folder in ("shared", "services", "infra", "examples")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
ELSEWHERE = ("the OpenAI API", "CloudEvents 1.0", "the log", "https://")
"""Nothing of ours to look at; the log's place is what `driftwheel status` says."""
AT_THE_DOOR = ("/api/…/openapi.json", "/api/…/asyncapi.json")
_SEE = re.compile(r"\b[Ss]ee (?!what|it\b|each other|something|that|Kafka|drift)([^;.]*(?:\.\w+[^;.]*)*)")
_FILE = re.compile(r"(?<![\w./])(?:infra|docs|examples|services|shared|tests|bench)/[\w./-]*[\w/]")
_COMMAND = re.compile(r"[:`(] ?driftwheel ((?:[a-z]+ ?)+(?:--[a-z-]+)?)")


def _texts(file: Path) -> Iterator[str]:
    """Strings of the code but docstrings; what is put into one stands as `…`."""
    tree = ast.parse(file.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    loose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | loose
        ):
            yield node.value


TEXTS = [(file, text) for file in CODE for text in _texts(file) if " " in text]
_CADDY = ROOT / "infra" / "caddy" / "Caddyfile"
TEXTS += [(_CADDY, line) for line in _CADDY.read_text().splitlines() if "respond" in line]
ADVICE = [(file, text) for file, text in TEXTS if _SEE.search(text)]


def test_there_is_advice_to_check() -> None:
    assert len(ADVICE) >= 6
    assert any("policy.yaml" in text for _file, text in ADVICE)


@pytest.mark.parametrize(("file", "text"), ADVICE, ids=[f"{f.stem}-{i}" for i, (f, _t) in enumerate(ADVICE)])
def test_what_people_are_told_to_see_is_there(file: Path, text: str) -> None:
    found = _SEE.search(text)
    assert found
    named = found[1].strip()
    files = _FILE.findall(named)
    known = (
        bool(files) or named.startswith((*ELSEWHERE, *AT_THE_DOOR)) or "driftwheel " in named or "`" in named
    )
    assert known, f"{file.relative_to(ROOT)}: see {named!r} is nothing that this test knows"


def test_files_that_texts_name_exist() -> None:
    named = {(file, name) for file, text in TEXTS for name in _FILE.findall(text) if "…" not in text}
    assert not [(file.name, name) for file, name in named if not (ROOT / name).exists()]


def test_commands_that_texts_name_exist() -> None:
    told = [(file, command) for file, text in TEXTS for command in _COMMAND.findall(text)]
    assert len(told) > 20
    assert not [(file.name, command, found) for file, command in told if (found := fault(command.strip()))]
