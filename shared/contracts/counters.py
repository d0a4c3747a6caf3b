"""Numbers that only rise, and decide which of two events is newer: a revision, a sequence, a version.

One value that is far too large would make every true one after it look old. So they have a highest value, and one that
is further ahead of what is known than can be true is refused.
"""

from typing import Annotated

from pydantic import Field

from shared.contracts.errors import Poison

HIGHEST = 1_000_000_000
"""Fits the integers of the databases; at one a second it takes 31 years."""
MOST_AHEAD = 1_000_000
"""So many may be missed between two that are seen (topics are compacted, databases begin anew): two years of one a
minute."""

Counter = Annotated[int, Field(ge=1, le=HIGHEST)]


class Implausible(Poison):
    """It says a number that cannot be true yet: whoever sent it is broken, or not who it says."""


def is_newer(known: int, said: int, name: str) -> bool:
    """Whether `said` comes after what is `known` (0: nothing).

    Raises:
        Implausible: it is too far ahead.
    """
    if said > known + MOST_AHEAD:
        raise Implausible(
            f"The {name} is more than {MOST_AHEAD} ahead of the one that is known here.",
            "Look who sent it: infra/runbooks/ImplausibleEvent.md.",
        )
    return said > known
