"""What is too much, for each source of a topic alone: messages that die, by their run and share; messages at all, by their
number in a minute."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime

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


@dataclass(slots=True)
class _Spent:
    """What a source has sent in one minute, by partition: how far it was counted, and from which offset on it is too much."""

    messages: int = 0
    counted: dict[int, int] = field(default_factory=dict)
    cut: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Quota:
    """How many messages of a topic each source may send in a minute, by the time at which Kafka got them.

    So a backlog is no burst, and a record that comes again is counted once and judged as it was before. A flood of made-up
    sources takes bounded room; whom it makes us forget begins its minute anew.
    """

    per_minute: int
    _minutes: OrderedDict[tuple[str, int], _Spent] = field(default_factory=OrderedDict)

    def over(self, source: str, at: datetime, partition: int, offset: int) -> bool:
        """Whether this record is one too many. Offsets of a partition rise, unless they come again."""
        minute = (source, int(at.timestamp()) // 60)
        spent = self._minutes.pop(minute, None) or _Spent()
        self._minutes[minute] = spent
        if len(self._minutes) > _MOST_SOURCES:
            self._minutes.popitem(last=False)
        if offset > spent.counted.get(partition, -1):
            spent.counted[partition] = offset
            spent.messages += 1
            if spent.messages > self.per_minute:
                spent.cut.setdefault(partition, offset)
        return offset >= spent.cut.get(partition, offset + 1)
