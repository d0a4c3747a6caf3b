"""What pages about datasets and runs draw, worked out from the services' documents: pure functions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from services.console.formats import parsed
from shared.contracts.document import Json

REASONS: dict[str, str] = {
    "invalid_row": "cannot be read as a row",
    "row_too_large": "longer than a row may be",
    "unknown_shape": "fits no known format",
    "bad_text": "holds a NUL or text that is not Unicode",
    "wrong_role": "turns are not user and assistant in order",
    "empty": "a message is empty",
    "control_token": "holds a control token of the chat template",
    "too_short": "fewer characters than data.min_chars",
    "too_long": "more characters than data.max_chars",
    "too_many_tokens": "more tokens than data.max_tokens",
    "duplicate": "prompt and answer were there before",
    "conflicting_answer": "the prompt was there with another answer",
    "own_answer_held_out": "the model's own answers only train",
    "own_answer_cap": "over data.max_own_share of the model's own answers",
    "erased": "taken back by who said it",
    "author_cap": "over retrain.max_rows_per_subject of one author",
    "text_missing": "the text of the answer is gone",
}
"""What each reason of the data service means."""


class Step(NamedTuple):
    """A bar of the funnel; `share` is of all rows read."""

    name: str
    meaning: str
    rows: int
    share: float
    kind: str


def funnel(build: Json) -> list[Step]:
    """What became of every row read: kept first, then the reasons for dropping, largest first."""
    read = build["read"] or 0
    dropped = sorted(build["dropped"].items(), key=lambda item: (-item[1], item[0]))
    bars = [("kept", "in the dataset", sum(build["rows"].values()), "")]
    bars += [(reason, REASONS.get(reason, ""), rows, "bad") for reason, rows in dropped]
    return [
        Step(name, meaning, rows, rows / read if read else 0.0, kind) for name, meaning, rows, kind in bars
    ]


class Bins(NamedTuple):
    """A histogram without the empty bins at its ends."""

    counts: list[int]
    labels: list[str]
    rows: int
    mean: float | None
    longest: int | None


def bins(lengths: Json | None) -> Bins | None:
    """None when nothing was measured."""
    if not lengths or not lengths["rows"]:
        return None
    edges, counts = lengths["edges"], lengths["counts"]
    lows = [0, *edges]
    labels = [f"{low + 1} to {high}" for low, high in zip(lows[:-1], edges, strict=True)]
    labels.append(f"over {edges[-1]}")
    used = [place for place, count in enumerate(counts) if count]
    shown = slice(used[0], used[-1] + 1)
    return Bins(counts[shown], labels[shown], lengths["rows"], lengths["mean"], lengths["longest"])


def lasted(start: str | None, end: str | None) -> float | None:
    """Seconds from start to end, or until now; None before the start."""
    begun = parsed(start)
    return ((parsed(end) or datetime.now(UTC)) - begun).total_seconds() if begun else None


def chart(lines: Sequence[tuple[str, Sequence[Json], str, bool]]) -> Json:
    """A chart of curves over steps. A line is (label, points, name of the value in a point, dashed)."""
    steps = sorted({point["step"] for _, points, name, _ in lines for point in points if _has(point, name)})
    series = []
    for label, points, name, dash in lines:
        values = {point["step"]: point[name] for point in points if _has(point, name)}
        if values:
            series.append({"label": label, "values": [values.get(step) for step in steps], "dash": dash})
    return {"x": steps, "x_label": "step", "series": series, "format": "number"}


def _has(point: Json, name: str) -> bool:
    return point.get(name) is not None


def differences(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which recipes are not all the same, in the order of the first."""
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]


def plain(value: Any) -> str:
    """A value of a recipe as text."""
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
