"""What a shell offers for an id that is being typed: the newest ones there are. Silent, whatever goes wrong."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

_SECONDS = 2.0
_MOST = 50


def _offered(path: str, listed: str, name: str) -> Callable[[str], list[str]]:
    def offer(incomplete: str) -> list[str]:
        from services.console.door import headers, url
        from services.console.terminal import err
        from services.console.transport import Silent, request

        err.quiet = True
        try:
            answer = request(
                "GET", url() + path, headers=headers(), timeout=_SECONDS, params={"limit": _MOST}
            )
            found: list[Any] = answer.json()[listed] if answer.good else []
            return [str(one[name]) for one in found if str(one[name]).startswith(incomplete)]
        except (Silent, typer.Exit, ValueError, LookupError, TypeError):
            return []
        finally:
            err.quiet = False

    return offer


MODELS = _offered("/api/registry/models", "models", "name")
RUNS = _offered("/api/trainer/runs", "runs", "id")

ModelArgument = Annotated[str, typer.Argument(autocompletion=MODELS, help="A model's name.")]
ModelOption = Annotated[str | None, typer.Option(autocompletion=MODELS, help="Of this model only.")]
RunArgument = Annotated[str, typer.Argument(autocompletion=RUNS, help="A run's id.")]
RolloutArgument = Annotated[
    str,
    typer.Argument(
        autocompletion=_offered("/api/serving/rollouts", "rollouts", "id"), help="A rollout's id."
    ),
]
EvaluationArgument = Annotated[
    str,
    typer.Argument(
        autocompletion=_offered("/api/evaluator/evaluations", "evaluations", "id"),
        help="An evaluation's id.",
    ),
]
FileArgument = Annotated[
    str, typer.Argument(autocompletion=_offered("/v1/files", "data", "id"), help="A file's id.")
]
BUILDS = _offered("/api/data/datasets", "datasets", "id")
DRIFTS = _offered("/api/monitor/drifts", "drifts", "id")
