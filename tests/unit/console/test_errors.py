"""Every failure: its exit code, one line of what, one of what to do next; nothing on stdout, no traceback."""

import json
import re

import httpx2
import pytest
from starlette.responses import PlainTextResponse
from typer.testing import Result

from services.console import cli, door, transport
from services.console.cli import EPILOG
from services.console.door import Exit
from tests.unit.console.conftest import Command, Door, problem

COMMANDS = [
    ("datasets", "list"),
    ("datasets", "show", "x"),
    ("datasets", "cancel", "x"),
    ("runs", "list"),
    ("runs", "show", "x"),
    ("runs", "cancel", "x"),
    ("models", "list"),
    ("models", "show", "support"),
    ("models", "show", "support:1"),
    ("models", "rollback", "support", "--reason", "r"),
    ("chat", "support", "hello"),
    ("feedback", "x", "--right"),
    ("dlq", "list"),
    ("dlq", "redrive", "data", "x"),
    ("trace", "x"),
]


def refused(result: Result, code: Exit) -> str:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stderr


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request", Exit.USAGE),
        (401, "unauthenticated", Exit.FAILED),
        (403, "forbidden", Exit.FAILED),
        (404, "not_found", Exit.NOT_FOUND),
        (409, "conflict", Exit.CONFLICT),
        (409, "gate_refused", Exit.GATE),
        (413, "too_large", Exit.USAGE),
        (422, "invalid_request", Exit.USAGE),
        (429, "overloaded", Exit.UNAVAILABLE),
        (500, "internal_error", Exit.FAILED),
        (502, "bad_gateway", Exit.UNAVAILABLE),
        (503, "unavailable", Exit.UNAVAILABLE),
    ],
)
def test_what_a_service_says_becomes_an_exit_code(
    driftwheel: Command, door: Door, status: int, kind: str, code: Exit
) -> None:
    body = problem(status, kind, "It is [bold]so[/nonsense].", "Do this.")
    door.answers["POST", "/api/registry/models/support/rollback"] = (status, body)
    told = refused(driftwheel("models", "rollback", "support", "--reason", "r", "--json"), code)
    assert "It is [bold]so[/nonsense]." in told
    assert "Do this." in told


def test_openais_error_shape_is_read_too(driftwheel: Command, door: Door) -> None:
    error = {
        "message": "No such model. List them.",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    door.answers["POST", "/v1/chat/completions"] = (404, {"error": error})
    assert "No such model" in refused(driftwheel("chat", "nope", "hello"), Exit.NOT_FOUND)


@pytest.mark.parametrize("body", ["", "<html>502</html>", "[]", '"text"', "null", '{"error": null}'])
def test_a_proxys_answer_is_no_reason_to_crash(driftwheel: Command, door: Door, body: str) -> None:
    door.answers["GET", "/api/trainer/runs"] = PlainTextResponse(body, 502)
    told = refused(driftwheel("runs", "list"), Exit.UNAVAILABLE)
    assert "502 from /api/trainer/runs" in told
    assert "driftwheel status" in told


def test_something_else_at_the_door(driftwheel: Command, door: Door) -> None:
    door.answers["GET", "/api/trainer/runs"] = PlainTextResponse("<html>welcome</html>")
    assert "does not speak JSON" in refused(driftwheel("runs", "list"), Exit.FAILED)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nobody_at_the_door(nowhere: Command, key: object, command: tuple[str, ...]) -> None:
    result = nowhere(*command, DRIFTWHEEL_URL="http://127.0.0.1:9")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "driftwheel status" in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_platform_here(nowhere: Command, key: object, command: tuple[str, ...]) -> None:
    assert "driftwheel up" in refused(nowhere(*command), Exit.UNAVAILABLE)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_token(nowhere: Command, command: tuple[str, ...]) -> None:
    told = refused(nowhere("--url", "http://127.0.0.1:9", *command), Exit.FAILED)
    assert "DRIFTWHEEL_TOKEN" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("runs", "nonsense"),
        ("chat", "support"),
        ("models", "rollback", "support"),
        ("runs", "list", "--nonsense"),
        ("feedback", "x"),
        ("token", "--scope", "everything"),
        ("token", "--scope", "chat", "--ttl", "soon"),
        ("token", "--scope", "chat", "--ttl", "-1h"),
        ("token", "--scope", "chat", "--ttl", "nand"),
        ("dlq", "redrive", "nobody", "x"),
        ("events", "tail", "--topic", "no.such.topic"),
        ("events", "tail", "--count", "0"),
        *(
            ("--url", url, *command)
            for url in ("http://h:port", "http://[", "ftp://x", "nonsense", "http://")
            for command in (("runs", "list"), ("trace", "x"), ("runs", "watch", "x"))
        ),
    ],
    ids=" ".join,
)
def test_wrong_use_is_2(driftwheel: Command, arguments: tuple[str, ...]) -> None:
    refused(driftwheel(*arguments), Exit.USAGE)


@pytest.mark.parametrize("typed", ["../../v1/models", "a/b", "x?y=1", "x#y", "x%2fy", "ä ö", "-", "\x7f"])
def test_what_is_typed_stays_one_part_of_the_path(driftwheel: Command, door: Door, typed: str) -> None:
    driftwheel("runs", "show", "--", typed)
    [(_, path)] = door.asked
    assert path.startswith("/api/trainer/runs/")
    assert "/" not in path.removeprefix("/api/trainer/runs/")
    assert httpx2.URL(f"http://x{path}").path == f"/api/trainer/runs/{typed}"


def test_an_interrupted_command_says_130(driftwheel: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transport, "request", interrupt)
    assert driftwheel("runs", "list").exit_code == Exit.INTERRUPTED


def test_a_bug_is_one_line_unless_asked(
    driftwheel: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh [no]")

    monkeypatch.setattr(cli, "app", bug)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == Exit.FAILED
    assert "ZeroDivisionError: oh [no]" in capsys.readouterr().err
    monkeypatch.setenv("DRIFTWHEEL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_the_exit_codes_are_the_documented_ones() -> None:
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 130, 141]
    assert set(re.findall(r"\b\d+(?= )", EPILOG)) == {str(int(code)) for code in Exit}
    assert json.dumps(Exit.GATE) == "6"
    assert door.SERVICES == ("data", "trainer", "evaluator", "registry", "serving", "monitor")
