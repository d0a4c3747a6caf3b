"""The pages, in the order of the menu: one file each, and its templates beside it in templates/."""

from fastapi import APIRouter

from services.console.pages import (
    datasets,
    dead_letters,
    drift,
    evaluations,
    events,
    home,
    models,
    rollouts,
    runs,
    trace,
)

PAGES: dict[str, APIRouter] = {
    "home": home.router,
    "datasets": datasets.router,
    "runs": runs.router,
    "evaluations": evaluations.router,
    "models": models.router,
    "rollouts": rollouts.router,
    "drift": drift.router,
    "trace": trace.router,
    "events": events.router,
    "dead letters": dead_letters.router,
}
