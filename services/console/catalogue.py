"""Every command there is, by name: what it is for, and where it is loaded from when it is called. Tests hold it against them."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group_from_info
from typer.models import TyperInfo

from services.console.arguments import lighten


class Entry(NamedTuple):
    """One command (a function) or noun (a Typer), under `attribute` of a module of `services.console.commands`."""

    module: str
    attribute: str
    help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "This machine": {
        "up": Entry("stack", "up", "Start everything on this machine and keep it running."),
        "down": Entry("stack", "down", "Stop it, and end what a crash left behind."),
        "status": Entry("stack", "status", "What runs, since when, with how much memory."),
        "doctor": Entry("stack", "doctor", "What is wrong with this machine, and how to mend it."),
    },
    "The loop": {
        "files": Entry("files", "app", "Files: what was uploaded, to become datasets."),
        "datasets": Entry("datasets", "app", "Rows in, datasets out."),
        "runs": Entry("runs", "app", "Training runs."),
        "evaluations": Entry(
            "evaluations", "app", "Evaluations: what was measured, and what the gates said."
        ),
        "models": Entry("models", "app", "Models, versions, aliases."),
        "rollouts": Entry("rollouts", "app", "Rollouts: a version's way to all of the traffic."),
        "drifts": Entry("drifts", "app", "What the monitor said about the traffic, and what came of it."),
    },
    "Answers": {
        "chat": Entry("answers", "chat", "Ask one question through the front door."),
        "feedback": Entry(
            "answers", "feedback", "Say whether an answer was right; a corrected answer is worth most."
        ),
        "subjects": Entry("subjects", "app", "People whose texts are kept, and taking those back."),
    },
    "Access and policies": {
        "apply": Entry("policies", "apply", "Declare a model by its policy, in one document."),
        "policy": Entry("policies", "app", "Policies: what is declared about each model."),
        "token": Entry("access", "tokens", "Make a token, signed with this installation's key."),
        "open": Entry("access", "open_", "Open the console in the browser, signed in with your token."),
    },
    "On call": {
        "trace": Entry("trace", "trace", "The whole story an id belongs to, and what it waits for."),
        "events": Entry("events", "events", "Events: as they pass, as they passed, and once more."),
        "consumers": Entry("consumers", "app", "Consumers: who reads which topic, and what stands still."),
        "dlq": Entry("dlq", "app", "Dead letters: what died, why, and again."),
        "outbox": Entry("outbox", "app", "Events that Kafka did not take: which, why, and again."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Group(TyperGroup):
    """A noun: each of its verbs with its whole first sentence, and its example on a line of its own."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for command in (self, *self.commands.values()):
            _ready(command)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        _section(formatter, "Commands", {name: _first(one.help) for name, one in self.commands.items()})


class Catalogue(TyperGroup):
    """Loads a command when it is called, so that no command pays for another one, and --help for none."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Loaded()  # type: ignore[assignment]
        _ready(self)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(ENTRIES)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, entries in SECTIONS.items():
            _section(formatter, title, {name: entry.help for name, entry in entries.items()})


class _Loaded(Mapping[str, Any]):
    """Every command by its name; it is loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        return load(name)

    def __contains__(self, name: object) -> bool:
        return name in ENTRIES

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)


def load(name: str) -> Any:
    """The command, or the group of a noun. Raises KeyError."""
    entry = ENTRIES[name]
    found = getattr(import_module(f"services.console.commands.{entry.module}"), entry.attribute)
    if isinstance(found, typer.Typer):
        return get_group_from_info(
            TyperInfo(found, name=name, cls=Group),
            pretty_exceptions_short=True,
            rich_markup_mode=None,
            suggest_commands=True,
        )
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(found)
    return _ready(get_command(alone))


def _ready(command: Any) -> Any:
    params = command.get_params  # of the group or command as it is called, with --help
    command.get_params = lambda context: [lighten(param) for param in params(context)]
    if command.help:  # an example is copied, so it keeps its line
        command.help = command.help.replace("\n\nExample:", "\n\n\b\nExample:")
    return command


def _first(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _section(formatter: Any, title: str, told: dict[str, str]) -> None:
    width = max(map(len, ENTRIES))
    with formatter.section(title):
        formatter.write_dl([(f"{name:<{width}}", text) for name, text in told.items()])
