"""The words that tell two samples apart."""

import json

from hypothesis import given
from hypothesis import strategies as st

from services.monitor.detectors.words import typical

CARDS = ["my card is lost", "where is my card", "a card was stolen", "the card does not work"] * 3
FLIGHTS = ["my flight is late", "book a flight", "cancel that flight", "a flight with my dog"] * 3


def test_new_and_gone_words_come_first_with_their_counts() -> None:
    words = typical(CARDS, FLIGHTS)
    assert (words[0]["word"], words[0]["now"], words[0]["before"]) == ("flight", 12, 0)
    gone = next(word for word in words if word["z"] < 0)
    assert (gone["word"], gone["now"], gone["before"]) == ("card", 0, 12)
    assert [word["z"] for word in words if word["z"] > 0] == sorted(
        (word["z"] for word in words if word["z"] > 0), reverse=True
    )


def test_what_only_one_or_two_people_said_is_not_shown() -> None:
    assert "zbigniew" not in {word["word"] for word in typical(CARDS, [*FLIGHTS, "I am Zbigniew"] * 2)}


def test_the_same_text_has_no_typical_words() -> None:
    assert all(abs(word["z"]) < 0.01 for word in typical(CARDS, CARDS))


@given(st.lists(st.text(max_size=60), max_size=30), st.lists(st.text(max_size=60), max_size=30))
def test_any_text_gives_finite_numbers(before: list[str], now: list[str]) -> None:
    json.dumps(typical(before, now), allow_nan=False).encode()
    assert all(word["now"] + word["before"] >= 3 for word in typical(before * 3, now * 3))
