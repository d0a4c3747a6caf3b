"""Times from outside: with an offset, in years that every part can compute with, never a number."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.contracts.text import LONGEST_SECONDS, Moment

MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize(
    "value",
    [
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59Z",
        "1969-12-31T23:59:59Z",
        "2026-01-01T00:00:00",
        "2026-01-01",
        "0.5",
        "1700000000",
        0.5,
        1_700_000_000,
        True,
        None,
        "NaN",
        "",
    ],
)
def test_what_is_no_usable_time_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(value)


@pytest.mark.parametrize(
    "value", ["2026-01-31T12:00:00+02:00", "2026-01-31 10:00:00Z", "2026-01-31T10:00:00.000Z"]
)
def test_a_time_is_read_in_utc(value: str) -> None:
    assert MOMENT.validate_python(value) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert MOMENT.validate_python(value).utcoffset() == timedelta(0)


def test_the_longest_duration_can_be_added_to_the_latest_time() -> None:
    assert MOMENT.validate_python("9990-12-31T23:59:59Z") + timedelta(seconds=LONGEST_SECONDS)
