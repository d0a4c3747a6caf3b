"""What is agreed on between those who tell their part of a story and those who ask for it."""

import re

LIMIT = 2_000
"""Most rows of a kind in one service's part."""
_KEY_OF_AN_OBJECT = re.compile(r"(?:.*/)?sha256/([0-9a-f]{64})(?:/.*)?")


def searched(any_id: str) -> str:
    """The id to look for: of an object's key, the digest that names it."""
    found = _KEY_OF_AN_OBJECT.fullmatch(any_id)
    return found.group(1) if found else any_id
