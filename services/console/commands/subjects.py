"""`driftwheel subjects erase`: what somebody said is taken back, everywhere."""

from typing import Annotated

import typer

from services.console.door import post
from services.console.output import AsJson, confirmed
from services.console.terminal import err, out, show_json

MOST = 10_000
"""Answers that serving tells of at once."""
app = typer.Typer(no_args_is_help=True, help="People whose texts are kept, and taking those back.")


@app.command()
def erase(
    subject: Annotated[str, typer.Argument(help="Whom a token names, or requests as `user`.")],
    model: Annotated[str, typer.Option(help="Of this model.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase what a subject asked, what was answered, and what was written about it; later datasets do not have it.

    Again changes nothing. Datasets that have some of it are listed: delete them once a version without it serves.

    Example: driftwheel subjects erase customer-4711 --model support
    """
    asked = {"model": model, "subject": subject}
    dry = post("/api/serving/subjects/erase", {**asked, "dry_run": True})
    confirmed(
        f"Erase the texts of {len(dry['answers']):,} answers and {dry['corrections']:,} corrections for good?",
        yes,
    )
    rows, corrections, answers = 0, 0, 0
    datasets: set[str] = set()
    while True:  # data first: it knows prompts by their words, which are in the store only until then
        forgotten = post("/api/data/subjects/erase", {**asked, "answers": dry["answers"]})
        done = post("/api/serving/subjects/erase", {**asked, "dry_run": False})
        rows, corrections = rows + forgotten["rows"], corrections + done["corrections"]
        answers, datasets = answers + len(done["answers"]), datasets | set(forgotten["datasets"])
        if len(dry["answers"]) < MOST:
            break
        dry = post("/api/serving/subjects/erase", {**asked, "dry_run": True})
    if as_json:
        told = {"answers": answers, "corrections": corrections, "rows": rows, "datasets": sorted(datasets)}
        show_json(told)
        return
    out.print(f"[green]✓[/] erased the texts of {answers:,} answers and {corrections:,} corrections")
    for digest in sorted(datasets):
        err.print(
            f"dataset {digest} has some of it: train anew, then delete it", style="yellow", markup=False
        )
