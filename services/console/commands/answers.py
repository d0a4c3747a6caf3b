"""`driftwheel chat | feedback`."""

from typing import Annotated

import httpx2
import typer

from services.console.door import Exit, client, err, fail, out, post, refuse, show_json, url
from services.console.output import AsJson


def chat(
    model: Annotated[str, typer.Argument(help="`support`, `support@champion` or `support:2`.")],
    prompt: str,
    max_tokens: int = 64,
    as_json: AsJson = False,
) -> None:
    """Ask one question through the front door.

    Example: driftwheel chat support "how do i move money to savings"
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    try:
        with client(timeout=300) as http:
            response = http.post("/v1/chat/completions", json=body)
    except httpx2.TransportError:
        fail(Exit.UNAVAILABLE, f"{url()} does not answer.", "Look: driftwheel status.")
    if response.is_error:
        refuse(response)
    answer_id, version = response.headers.get("x-answer-id"), response.headers.get("x-model-version")
    if as_json:
        show_json({"answer_id": answer_id, "version": version, **response.json()})
        return
    out.print(response.json()["choices"][0]["message"]["content"], markup=False)
    err.print(f"[dim]version {version} · answer {answer_id}[/]", soft_wrap=True)


def feedback(
    answer: Annotated[str, typer.Argument(help="The answer's id.")],
    right: Annotated[bool, typer.Option("--right/--wrong", help="Was it right?")],
    corrected: Annotated[str | None, typer.Option(help="What it should have said.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether an answer was right; a corrected answer is worth most.

    Example: driftwheel feedback ID --wrong --corrected "card declined"
    """
    found = post(
        "/v1/feedback",
        {"answer_id": answer, "correct": right} | ({"corrected": corrected} if corrected else {}),
    )
    if as_json:
        show_json(found)
    else:
        out.print("[green]✓[/] recorded")
