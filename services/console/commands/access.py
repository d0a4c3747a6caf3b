"""`driftwheel token | apply`: who may call, and what is declared."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
import yaml

from services.console.door import Exit, call, fail, signing_key, url
from services.console.door import token as user_token
from services.console.output import AsJson
from services.console.terminal import err, out, show_json, show_line

_CONSOLE_SECONDS = 12 * 3_600.0


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (KeyError, ValueError, IndexError):
        fail(Exit.USAGE, f"{text!r} is not a duration.", "Write 30m, 12h or 7d.")
    if not 0 < seconds <= 366 * 86_400:
        fail(Exit.USAGE, "A token lives between a moment and a year.", "Write 30m, 12h or 7d.")
    return seconds


def token(
    scope: Annotated[list[str], typer.Option(help="Repeatable; `--scope ?` lists them.")],
    subject: Annotated[str, typer.Option(help="Whose token it is.")] = "operator",
    ttl: Annotated[str, typer.Option(help="How long it lives: 30m, 12h, 7d.")] = "12h",
    as_json: AsJson = False,
) -> None:
    """Make a token, signed with this installation's key.

    Example: driftwheel token --scope chat --scope feedback --subject alice --ttl 1h
    """
    from shared.http.tokens import mint

    key = signing_key()
    if key is None:
        fail(Exit.FAILED, "This installation has no signing key yet.", "It is made by: driftwheel up.")
    seconds = _seconds(ttl)
    try:
        made = mint(key, subject, scope, seconds)
    except ValueError as error:
        fail(Exit.USAGE, str(error), "Example: --scope chat --scope feedback")
    if as_json:
        show_json({"token": made, "subject": subject, "scopes": sorted(set(scope)), "seconds": seconds})
    else:
        show_line(made)


def open_(
    page: Annotated[str, typer.Argument(help="A path of the console.")] = "/",
    show: Annotated[bool, typer.Option("--print", help="Print the address instead of opening it.")] = False,
) -> None:
    """Open the console in the browser, signed in with your token (DRIFTWHEEL_TOKEN, or one made here for 12 hours).

    Example: driftwheel open /trace/support:2
    """
    import webbrowser

    # Behind the # it stays in the browser: no server sees it, no log keeps it.
    address = f"{url()}/login?next={quote(page)}#{quote(user_token(_CONSOLE_SECONDS))}"
    if show or not webbrowser.open(address):
        show_line(address)
    else:
        err.print(f"[dim]opened {url()}{page}[/]", highlight=False)


def apply(file: Path, as_json: AsJson = False) -> None:
    """Declare a model: its data, recipe, gates, ramp, drift and budget, in one document.

    Example: driftwheel apply examples/support/policy.yaml
    """
    try:
        document: Any = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        fail(Exit.NOT_FOUND, f"{file} cannot be read: {error.strerror}.", "Give the path of a policy.")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        fail(Exit.USAGE, f"{file} is not YAML: {error}", "See examples/support/policy.yaml.")
    if not isinstance(document, dict):
        fail(Exit.USAGE, f"{file} holds no policy.", "See examples/support/policy.yaml.")
    declared = call("POST", "/api/registry/policies", json=document)
    if as_json:
        show_json(declared)
    else:
        what = "declared" if declared["changed"] else "unchanged"
        out.print(f"[green]✓[/] {declared['model']} {what}, revision {declared['revision']}")
