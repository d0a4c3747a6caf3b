"""Evidence-bound approval: the digest evaluated is the digest approved, and the report says so itself."""

import hashlib
import json

from shared.artifacts.objects import ObjectStore, look
from shared.contracts.errors import NotFound, RetryLater
from shared.contracts.events import ModelEvaluated

BUCKET = "evaluations"
_BOUND = ("evaluation_id", "model", "adapter_digest", "verdict")


async def evidence_problem(objects: ObjectStore, event: ModelEvaluated) -> str | None:
    """What is wrong with the report an evaluation names; None if it is there, whole, and about the same thing.

    Raises:
        Unavailable: the store does not answer. RetryLater: the report is not in it.
    """
    if event.report.bucket != BUCKET:
        return "the report is not among the evaluations"
    try:
        data = await look(objects.get(event.report.bucket, event.report.key))
    except NotFound as error:
        raise RetryLater(
            "The report of this evaluation does not exist.",
            "Restore or repeat it, then redrive the evaluation.",
        ) from error
    if hashlib.sha256(data).hexdigest() != event.report.sha256:
        return "the report was altered: its digest is another"
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        return "the report is not JSON"
    unlike = [
        name for name in _BOUND if not isinstance(report, dict) or report.get(name) != getattr(event, name)
    ]
    return f"the report disagrees with the evaluation in {', '.join(unlike)}" if unlike else None
