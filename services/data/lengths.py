"""How long the rows of a dataset are: two small histograms that its build keeps, in characters and in tokens."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from services.data.rows import Kept, Turn
from shared.contracts.text import Json

CHARACTERS = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1_000, 1_500, 2_000, 4_000, 8_000)
TOKENS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048, 4_096)
"""Upper edges of the bins, inclusive; one more bin takes what is longer."""
_SAMPLES = 20_000


class Counter(Protocol):
    def count(self, messages: Sequence[Turn]) -> int:
        """Tokens of a conversation, chat template included."""
        ...


class Lengths:
    """Looks at kept rows as they pass. Memory is bounded, and the same rows give the same numbers.

    Characters are those of all messages, counted for every row. Tokens cost a pass of the tokenizer, so they are
    counted for every row only up to 20,000, then for every 2nd, every 4th…: evenly spread over the dataset.
    """

    def __init__(self, tokens: Counter) -> None:
        self._tokens = tokens
        self._characters = Histogram(CHARACTERS)
        self._sampled = array("I")
        self._stride = 1
        self._seen = 0

    def watch(self, rows: Iterable[Kept]) -> Iterator[Kept]:
        for kept in rows:
            self._see(kept.row.messages)
            yield kept

    def view(self) -> Json:
        tokens = Histogram(TOKENS)
        for length in self._sampled:
            tokens.add(length)
        return {"characters": self._characters.view(), "tokens": tokens.view()}

    def _see(self, messages: Sequence[Turn]) -> None:
        self._characters.add(sum(len(turn.content) for turn in messages))
        if self._seen % self._stride == 0:
            self._sampled.append(self._tokens.count(messages))
            if len(self._sampled) == _SAMPLES:
                self._sampled, self._stride = self._sampled[::2], self._stride * 2
        self._seen += 1


class Histogram:
    def __init__(self, edges: Sequence[int]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self._sum = self._most = 0

    def add(self, length: int) -> None:
        self._counts[bisect_left(self._edges, length)] += 1
        self._sum += length
        self._most = max(self._most, length)

    def view(self) -> Json:
        """`counts` has one bin more than `edges`; `rows` is how many were measured."""
        rows = sum(self._counts)
        return {
            "edges": list(self._edges),
            "counts": self._counts,
            "rows": rows,
            "mean": round(self._sum / rows, 1) if rows else None,
            "longest": self._most if rows else None,
        }
