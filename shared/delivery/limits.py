"""When too many messages die: judged for each source of a topic alone, by the run of deaths and by their share."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

_MOST_SOURCES = 1_000
"""Sources remembered per topic; the one that was silent longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many deaths are too many.

    Attributes:
        run: deaths one after the other, with nothing handled between.
        ratio: share of deaths among the newest `window` outcomes; judged once half of the window is filled.
    """

    run: int
    ratio: float
    window: int


@dataclass(slots=True)
class _Outcomes:
    newest: deque[bool]
    run: int = 0
    dead: int = 0

    def note(self, died: bool) -> None:
        if len(self.newest) == self.newest.maxlen:
            self.dead -= self.newest[0]
        self.newest.append(died)
        self.dead += died
        self.run = self.run + 1 if died else 0


@dataclass(slots=True)
class DeadLetters:
    """The outcomes of one topic, by source. What succeeds for one source says nothing of another."""

    limit: Limit
    _sources: OrderedDict[str, _Outcomes] = field(default_factory=OrderedDict)

    def handled(self, source: str) -> None:
        self._note(source, died=False)

    def died(self, source: str) -> str | None:
        """Why this death is one too many, if it is."""
        found = self._note(source, died=True)
        if found.run >= self.limit.run:
            return f"{found.run} messages died in a row"
        seen = len(found.newest)
        if seen * 2 >= self.limit.window and found.dead > self.limit.ratio * seen:
            return f"{found.dead} of the newest {seen} messages died"
        return None

    def forget(self, source: str | None = None) -> None:
        """Count anew, for one source or for all."""
        if source is None:
            self._sources.clear()
        else:
            self._sources.pop(source, None)

    def _note(self, source: str, *, died: bool) -> _Outcomes:
        found = self._sources.pop(source, None) or _Outcomes(deque(maxlen=self.limit.window))
        self._sources[source] = found
        if len(self._sources) > _MOST_SOURCES:
            self._sources.popitem(last=False)
        found.note(died)
        return found
