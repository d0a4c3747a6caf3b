"""Where a version came from and where its traffic went: data, run, evaluation, approval, traffic. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from services.console.formats import number, percent, timestamp
from services.console.upstream import Answer
from shared.contracts.document import Json


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph.

    Attributes:
        id: what the link to `url` says; empty where nothing happened yet.
        key: the number that matters at this step, with `note` in smaller letters.
        trouble: why its own service cannot tell more.
    """

    name: str
    id: str
    url: str
    state: str = ""
    at: str | None = None
    key: str = ""
    note: str = ""
    trouble: str = ""


def lineage(version: Json, answers: Mapping[str, Answer]) -> list[Step]:
    """The five steps of a version. What the registry knows is shown even if the service of a step is away."""
    return [
        _data(version, answers["data"]),
        _run(version, answers["run"]),
        _evaluation(version, answers["evaluation"]),
        _approval(version),
        _traffic(version, answers["traffic"]),
    ]


def _data(version: Json, answer: Answer) -> Step:
    digest, build = version["dataset_digest"], answer.data or {}
    rows = build.get("rows", {})
    held_out = sum(count for split, count in rows.items() if split != "train")
    return Step(
        "Data",
        digest,
        f"/datasets/{digest}",
        state=build.get("state", ""),
        at=build.get("finished_at"),
        key=f"{number(rows['train'])} rows" if "train" in rows else "",
        note=f"and {number(held_out)} held out; because of {_why(build)}" if rows else "",
        trouble=answer.detail,
    )


def _why(build: Json) -> str:
    said = {"upload": "an upload", "schedule": "the schedule", "drift": "drift", "request": "a request"}
    return said.get(build["why"], str(build["why"]))


def _run(version: Json, answer: Answer) -> Step:
    run = answer.data or {}
    cost = version["cost"]
    loss = run.get("validation_loss")
    return Step(
        "Run",
        version["run_id"],
        f"/runs/{quote(version['run_id'], safe='')}",
        state=run.get("state", ""),
        at=run.get("finished_at") or version["trained_at"],
        key=f"loss {number(loss)}" if loss is not None else "",
        note=f"{number(cost['tokens'])} tokens, {number(cost['amount'])} {cost['currency']}",
        trouble=answer.detail,
    )


def _evaluation(version: Json, answer: Answer) -> Step:
    found = answer.data or {}
    compared = version["compared_with"]
    against = (
        f"measured against version {compared}" if compared else "there was no champion to measure against"
    )
    return Step(
        "Evaluation",
        version["evaluation_id"] or "",
        f"/evaluations/{quote(version['evaluation_id'] or '', safe='')}",
        state=found.get("verdict") or found.get("state", ""),
        at=found.get("finished_at"),
        key=exact_match(version["scores"]),
        note=against,
        trouble=answer.detail,
    )


def exact_match(scores: list[Json]) -> str:
    """`exact match 83.3 % (75.0 to 91.0)`, of the candidate on its test set; empty if it was not measured."""
    for score in scores:
        if (score["subject"], score["split"], score["metric"]) == ("candidate", "test", "exact_match"):
            low, high = (f"{score[end] * 100:.1f}" for end in ("low", "high"))
            return f"exact match {percent(score['value'], 1)} ({low} to {high})"
    return ""


def _approval(version: Json) -> Step:
    verdicts = version["verdicts"]
    passed = sum(one["verdict"] == "pass" for one in verdicts)
    state = "rejected" if version["state"] == "rejected" else "approved"
    return Step(
        "Approval",
        f"by {len(verdicts)} gate{'' if len(verdicts) == 1 else 's'}" if state == "approved" else "refused",
        "#gates",
        state=state,
        at=version["decided_at"],
        key=f"{passed} of {len(verdicts)} passed",
        note=version["reasons"][0] if version["reasons"] else "nothing stood against it",
    )


def _traffic(version: Json, answer: Answer) -> Step:
    found = answer.data or {"periods": [], "rollouts": []}
    rollout = found["rollouts"][0] if found["rollouts"] else None
    return Step(
        "Traffic",
        rollout["id"] if rollout else "",
        f"/rollouts/{quote(rollout['id'], safe='')}" if rollout else "#traffic",
        state="champion" if "champion" in version["aliases"] else _rolled(version, rollout),
        at=rollout["changed_at"] if rollout else None,
        **_share(version, found["periods"], rollout),
        trouble=answer.detail,
    )


def _rolled(version: Json, rollout: Json | None) -> str:
    if version["state"] == "rolled_back" or rollout is None:
        return "rolled_back" if rollout else ""
    return str(rollout["state"])


def _share(version: Json, periods: list[Json], rollout: Json | None) -> dict[str, Any]:
    reigns = [one for one in periods if one["alias"] == "champion"]
    if "champion" in version["aliases"]:
        since = f"champion since {timestamp(reigns[0]['since'])}" if reigns else ""
        return {"key": "100 % of traffic", "note": since}
    if "challenger" in version["aliases"] and rollout:
        return {"key": f"{number(rollout['weight'])} % of traffic", "note": "challenger"}
    if reigns:
        last = reigns[0]
        return {"key": "none now", "note": f"champion until {timestamp(last['until'])}"}
    return {"key": "none", "note": rollout["reason"] if rollout else "never rolled out"}
