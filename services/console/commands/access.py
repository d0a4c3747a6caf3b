"""`driftwheel token | open`: who may call, and who is signed in."""

import base64
import json
import re
import secrets
from typing import Annotated
from urllib.parse import quote

import typer

from infra.local.state import home
from services.console.door import Exit, fail, signing_key, url
from services.console.door import token as user_token
from services.console.output import AsJson
from services.console.terminal import err, out, show_json, show_line

_CONSOLE_SECONDS = 12 * 3_600.0
_LONGEST_SECONDS = 31 * 86_400.0


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (KeyError, ValueError, IndexError):
        fail(Exit.USAGE, f"{text!r} is not a duration.", "Write 30m, 12h or 7d.")
    if not 0 < seconds <= _LONGEST_SECONDS:
        fail(Exit.USAGE, "A token lives between a moment and 31 days.", "Write 30m, 12h or 7d.")
    return seconds


tokens = typer.Typer(invoke_without_command=True)


@tokens.callback()
def token(
    context: typer.Context,
    scope: Annotated[list[str] | None, typer.Option(help="Repeatable; `--scope ?` lists them.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Repeatable: for these models only.")] = None,
    subject: Annotated[str, typer.Option(help="Whose token it is.")] = "operator",
    ttl: Annotated[str, typer.Option(help="How long it lives: 30m, 12h, 31d.")] = "12h",
    as_json: AsJson = False,
) -> None:
    """Make a token, signed with this installation's key.

    Example: driftwheel token --scope chat --scope feedback --model support --subject alice --ttl 1h
    """
    if context.invoked_subcommand:
        return
    if not scope:
        fail(Exit.USAGE, "A token needs a scope.", "Example: --scope chat --scope feedback")
    from shared.http.minting import mint

    if model:
        scope = [f"{one}:{name}" for one in scope for name in model]
    key = signing_key()
    if key is None:
        fail(Exit.FAILED, "This installation has no signing key yet.", "It is made by: driftwheel up.")
    seconds = _seconds(ttl)
    try:
        token_id = secrets.token_urlsafe(12)
        made = mint(key, subject, scope, seconds, token_id=token_id)
    except ValueError as error:
        fail(Exit.USAGE, str(error), "Example: --scope chat --scope feedback")
    if as_json:
        said = {"subject": subject, "scopes": sorted(set(scope)), "seconds": seconds}
        show_json({"token": made, "id": token_id, **said})
    else:
        show_line(made)


@tokens.command()
def revoke(
    token_or_id: Annotated[str, typer.Argument(metavar="TOKEN", help="The token, or its id (jti).")],
    as_json: AsJson = False,
) -> None:
    """Let a token count no more, within seconds and for good.

    Example: driftwheel token revoke 1BhX0cQm3nYvT2aK
    """
    token_id = _token_id(token_or_id)
    file = home() / "revoked.txt"
    if not home().is_dir():
        fail(Exit.NOT_FOUND, "There is no installation here.", "Say which: DRIFTWHEEL_HOME=…")
    # One short append: readers see the line or not, and the file stays the one that containers have mounted.
    with file.open("a") as revoked:
        revoked.write(f"{token_id}\n")
    if as_json:
        show_json({"id": token_id})
    else:
        out.print("[green]✓[/] revoked")


def _token_id(text: str) -> str:
    """The id in a token, read without verifying it; or the id itself."""
    if text.count(".") == 2:
        part = text.split(".")[1]
        try:
            claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            text = claims["jti"]
        except (ValueError, KeyError, TypeError, RecursionError):
            fail(Exit.USAGE, "That token has no id, so it cannot be revoked alone.", "It ends by itself.")
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9._:-]{1,200}", text):
        fail(Exit.USAGE, "That is no token and no id of one.", "Give what driftwheel token printed.")
    return text


def open_(
    page: Annotated[str, typer.Argument(help="A path of the console.")] = "/",
    show: Annotated[bool, typer.Option("--print", help="Print the address instead of opening it.")] = False,
) -> None:
    """Open the console in the browser, signed in with your token.

    That is DRIFTWHEEL_TOKEN, or one made here for 12 hours.

    Example: driftwheel open /trace/support:2
    """
    import webbrowser

    # Behind the # it stays in the browser: no server sees it, no log keeps it.
    address = f"{url()}/login?next={quote(page)}#{quote(user_token(_CONSOLE_SECONDS))}"
    if show or not webbrowser.open(address):
        show_line(address)
    else:
        err.print(f"[dim]opened {url()}{page}[/]", highlight=False)
