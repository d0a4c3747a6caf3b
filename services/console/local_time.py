"""ISO times as a terminal shows them: local, with the zone."""

from datetime import datetime

from services.console.layout import Moment


def when(text: str | None) -> Moment | None:
    """To the second; None for none."""
    if not text:
        return None
    found = datetime.fromisoformat(text).astimezone()
    return Moment(f"{found:%Y-%m-%d %H:%M:%S %Z}", f"{found:%m-%d %H:%M %Z}")


def at(text: str) -> str:
    """`2026-01-31 14:03:07 CET`, in a sentence."""
    found = when(text)
    return found.whole if found else "–"


def day(text: str) -> str:
    """`2026-01-31, times in CET`: above lines that each have a `clock`."""
    found = datetime.fromisoformat(text).astimezone()
    return f"{found:%Y-%m-%d}, times in {found:%Z}"


def clock(text: str) -> str:
    """`14:03:07.123`, without the zone."""
    found = datetime.fromisoformat(text).astimezone()
    return f"{found:%H:%M:%S}.{found.microsecond // 1_000:03}"


def clock_in_zone(text: str | None) -> str:
    """`14:03:07.123 CET`; a dash for what is no time, since anybody may write it."""
    try:
        return f"{clock(text or '')} {datetime.fromisoformat(text or '').astimezone():%Z}"
    except (ValueError, OverflowError):
        return "–"
