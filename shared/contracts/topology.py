"""Who is there, who says what, and who listens: names alone, for code that must start fast."""

SERVICES = ("data", "trainer", "evaluator", "registry", "serving", "monitor")
OURS = frozenset(f"/{service}" for service in SERVICES)
CONSUMERS: dict[str, tuple[str, ...]] = {
    "model.declared": ("data", "trainer", "evaluator", "serving", "monitor"),
    "dataset.ready": ("trainer",),
    "training.requested": ("trainer",),
    "training.status": ("monitor",),
    "model.trained": ("evaluator", "registry"),
    "model.evaluated": ("registry",),
    "model.approved": ("serving",),
    "model.rejected": ("trainer", "monitor"),
    "rollout.changed": ("registry", "monitor"),
    "model.promoted": ("serving", "monitor", "data", "evaluator"),
    "prediction.served": ("monitor", "data"),
    "feedback.recorded": ("monitor", "data", "serving"),
    "drift.detected": ("data",),
}
"""Which services consume a topic; a test holds this against the handlers that really subscribe."""

PRODUCERS: dict[str, tuple[str, ...]] = {
    "model.declared": ("registry",),
    "dataset.ready": ("data",),
    "training.requested": (),
    "training.status": ("trainer",),
    "model.trained": ("trainer",),
    "model.evaluated": ("evaluator",),
    "model.approved": ("registry",),
    "model.rejected": ("registry",),
    "rollout.changed": ("serving",),
    "model.promoted": ("registry",),
    "prediction.served": ("serving",),
    "feedback.recorded": ("serving",),
    "drift.detected": ("monitor",),
}
"""Which services produce a topic, besides foreign producers; a test holds this against what they really emit."""
TOPICS = tuple(PRODUCERS)
"""Of every event there is; a test holds these against the events."""

UNVERIFIED = "/unverified"
"""Goes before the name of a service of ours that a message claims to be from, and is not."""


def believed(topic: str, source: str) -> str:
    """The source of a message on a topic that anybody may write: one of ours only if that service says such things.

    Source: PRODUCERS. Whether it said this very thing, its signature tells (`shared.delivery.signatures`).
    """
    said_by = PRODUCERS.get(topic, SERVICES)
    return source if source not in OURS or source[1:] in said_by else UNVERIFIED + source
