"""Values as people read them: times, durations, shares, sizes. The same in pages and in the terminal."""

import math
from datetime import UTC, datetime

from shared.contracts.document import Json

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_FAST = 10
_NOTHING = 1e-9


def parsed(value: str | datetime | None) -> datetime | None:
    """A time with its zone, from ISO 8601 text; None for what is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def timestamp(value: str | datetime | None) -> str:
    """`2026-11-25 14:03:07 UTC`, or a dash."""
    at = parsed(value)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "–"


def clock(value: str | datetime | None) -> str:
    """`14:03:07.123`: for lines that follow one another within a day."""
    at = parsed(value)
    return f"{at.astimezone(UTC):%H:%M:%S.%f}"[:-3] if at else "–"


def ago(value: str | datetime | None) -> str:
    """`12 s ago`, `3 min ago`, `2 h ago`, `5 d ago`, or a dash."""
    at = parsed(value)
    if at is None:
        return "–"
    seconds = (datetime.now(UTC) - at).total_seconds()
    if seconds < 1:
        return "just now"
    # What is minutes old needs no seconds, what is hours old no minutes.
    coarse = next((unit for unit in (_DAY, _HOUR, _MINUTE, 1) if seconds >= unit), 1)
    name = {_DAY: "d", _HOUR: "h", _MINUTE: "min", 1: "s"}[coarse]
    return f"{int(seconds // coarse)} {name} ago"


def duration(seconds: float | None) -> str:
    """`40 ms`, `7.2 s`, `3 min 05 s`, `2 h 10 min`, `4 d`, or a dash."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < _FAST:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d"


def number(value: float | None, digits: int = 3) -> str:
    """`1,234` for whole numbers, `0.288` or `0.000007` for others, or a dash."""
    if value is None:
        return "–"
    if float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1:
        return f"{value:,.{max(digits - 1, 0)}f}"
    written = f"{value:.{_decimals(value, digits)}f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def money(amount: float, currency: str) -> str:
    """`12.34 EUR`, `0.0021 EUR`: cents, or the first two digits that are not zero."""
    return f"{amount:,.{max(2, _decimals(amount, 2))}f} {currency}"


def _decimals(value: float, digits: int) -> int:
    """How many decimals show so many digits of it, without an exponent; less than a billionth is nothing."""
    return digits - 1 - math.floor(math.log10(abs(value))) if abs(value) >= _NOTHING else 0


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{share * 100:.{digits}f} %"


def scored(one: Json | None) -> str | None:
    """`79 % [70 %, 86 %]`: a score that is a share, with its interval; None for none."""
    return f"{percent(one['value'])} [{percent(one['low'])}, {percent(one['high'])}]" if one else None


def short(digest: str | None) -> str:
    """The first 12 characters of a digest or id."""
    return (digest or "–")[:12]


def size(count: float | None) -> str:
    """Bytes as `12 kB`, `3.4 MB`, or a dash."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if count >= _FAST or unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} GB"


def behind(ahead: Json | None) -> str | None:
    """`queued behind 3 jobs, next ahead: support run-12`: what a service says is `ahead` of a job, if it waits for its turn."""
    if ahead is None:
        return None
    if not ahead["jobs"]:
        return "next in the queue"
    jobs = "1 job" if ahead["jobs"] == 1 else f"{ahead['jobs']} jobs"
    whose = f"{ahead['model']} " if ahead["model"] else ""
    return f"queued behind {jobs}, next ahead: {whose}{ahead['key']}"
