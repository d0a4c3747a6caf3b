"""`driftwheel chat | feedback`."""

from typing import Annotated

import typer

from services.console.completion import MODELS
from services.console.door import json_of, post, send
from services.console.output import AsJson
from services.console.terminal import err, out, show_json


def chat(
    model: Annotated[
        str, typer.Argument(autocompletion=MODELS, help="`support`, `support@champion` or `support:2`.")
    ],
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
    response = send("POST", "/v1/chat/completions", timeout=300, json_body=body)
    answer_id, version = response.headers.get("x-answer-id"), response.headers.get("x-model-version")
    answer = json_of(response)
    if as_json:
        show_json({"answer_id": answer_id, "version": version, **answer})
        return
    out.print(answer["choices"][0]["message"]["content"], markup=False)
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
