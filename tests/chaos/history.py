"""What a correct platform's history looks like: one checker for simulations, kill tests and chaos runs.

published = handled ∪ dead ∪ pending; effects once; order per key; one champion; the audit whole. The names of the
rules are what a mutant of the delivery code must break.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Rule = Literal["lost", "doubled", "invented", "reordered", "champion", "audit", "unanswered"]
Identity = tuple[str, str, str]
"""Topic, source and id of a message."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an event topic, as Kafka has it. `fact` is what must be said once: a run's end, an answer."""

    topic: str
    partition: int
    offset: int
    source: str
    id: str
    key: bytes | None = None
    fact: Hashable = None

    @property
    def identity(self) -> Identity:
        return self.topic, self.source, self.id


@dataclass(frozen=True, slots=True)
class Handled:
    """One row of a service's inbox."""

    service: str
    topic: str
    source: str
    id: str
    partition: int
    offset: int
    state: Literal["done", "dead", "redriven"]
    at: datetime


@dataclass(frozen=True, slots=True)
class Said:
    """One event that a service has committed: on its way, or sent to a place. `number` is the order of its commits."""

    service: str
    topic: str
    id: str
    number: int
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that handling changed; `name` may occur once per service."""

    service: str
    name: Hashable
    cause: Identity | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move of an alias in the registry's own audit trail."""

    model: str
    sequence: int
    version: int | None
    alias: str = "champion"


@dataclass
class History:
    """Everything that is known at the end of a run.

    Attributes:
        consumers: topic → the services that must handle it.
        committed: (service, topic, partition) → the next offset to read; what is not below it is pending.
        required: (service, cause) → names of effects that a handled message must have left.
        accepted: topic → facts that a client was promised (an answer id, a feedback id).
        asked: idempotency keys of training requests; `answered` those that got an answer.
        champions: (who says it, model) → version.
    """

    consumers: Mapping[str, Sequence[str]]
    records: Sequence[Record] = ()
    handled: Sequence[Handled] = ()
    said: Sequence[Said] = ()
    effects: Sequence[Effect] = ()
    committed: Mapping[tuple[str, str, int], int] = field(default_factory=dict)
    required: Mapping[tuple[str, Identity], Sequence[Hashable]] = field(default_factory=dict)
    accepted: Mapping[str, Iterable[Hashable]] = field(default_factory=dict)
    asked: Iterable[str] = ()
    answered: Iterable[str] = ()
    promotions: Sequence[Promotion] = ()
    champions: Mapping[tuple[str, str], int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


class BrokenHistory(AssertionError):
    """A run whose history is wrong; `rules` names what it broke."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        shown = "\n".join(str(one) for one in violations[:20])
        super().__init__(f"{len(violations)} violations\n{shown}")
        self.rules = {one.rule for one in violations}


def demand(history: History) -> None:
    """Raises BrokenHistory unless all is as it must be."""
    if found := list(violations(history)):
        raise BrokenHistory(found)


def violations(history: History) -> Iterator[Violation]:
    yield from _lost_on_the_way_in(history)
    yield from _lost_on_the_way_out(history)
    yield from _said_twice(history)
    yield from _effects(history)
    yield from _order_in(history)
    yield from _order_out(history)
    yield from _promises(history)
    yield from _champions(history)


def _lost_on_the_way_in(history: History) -> Iterator[Violation]:
    """Below the committed offset every record is handled or dead in each service that consumes its topic.

    What could not be read has its place for a name there.
    """
    seen = {(row.service, row.topic, row.source, row.id) for row in history.handled}
    places = {(row.service, row.topic, row.partition, row.offset) for row in history.handled}
    for record in history.records:
        for service in history.consumers.get(record.topic, ()):
            at = history.committed.get((service, record.topic, record.partition))
            pending = at is not None and record.offset >= at
            place = (service, record.topic, record.partition, record.offset)
            if not pending and place not in places and (service, *record.identity) not in seen:
                yield Violation(
                    "lost", f"{service} never handled {record.topic}/{record.partition}/{record.offset}"
                )


def _lost_on_the_way_out(history: History) -> Iterator[Violation]:
    """What was committed is in its topic or still on its way; what a service of ours said was committed."""
    in_kafka = {(record.topic, record.id) for record in history.records}
    committed = {(one.service, one.topic, one.id) for one in history.said}
    speakers = {one.service for one in history.said}
    for one in history.said:
        if one.place is not None and (one.topic, one.id) not in in_kafka:
            yield Violation("lost", f"{one.service} sent {one.topic} {one.id}, which its topic lacks")
    for record in history.records:
        sender = record.source.removeprefix("/")
        if sender in speakers and (sender, record.topic, record.id) not in committed:
            yield Violation("invented", f"{sender} never committed {record.topic} {record.id}")


def _said_twice(history: History) -> Iterator[Violation]:
    """A fact is announced under one id, however often the record is there."""
    ids: dict[tuple[str, Hashable], set[Identity]] = defaultdict(set)
    for record in history.records:
        if record.fact is not None:
            ids[record.topic, record.fact].add(record.identity)
    for (topic, fact), found in ids.items():
        if len(found) > 1:
            yield Violation("doubled", f"{topic} says {fact} under {len(found)} ids")


def _effects(history: History) -> Iterator[Violation]:
    counted = Counter((effect.service, effect.name) for effect in history.effects)
    for (service, name), number in counted.items():
        if number > 1:
            yield Violation("doubled", f"{service} has {name} {number} times")
    done = {(row.service, (row.topic, row.source, row.id)) for row in history.handled if row.state == "done"}
    wanted = {(service, name) for (service, _), names in history.required.items() for name in names}
    for (service, cause), names in history.required.items():
        for name in names:
            if (service, cause) in done and (service, name) not in counted:
                yield Violation("lost", f"{service} handled {cause[2]} and has not {name}")
    if history.required:
        for service, name in counted:
            if (service, name) not in wanted:
                yield Violation("invented", f"{service} has {name}, which nothing asked for")


def _order_in(history: History) -> Iterator[Violation]:
    """Of one key, what was sent earlier is handled no later; a message that died or was redriven is out of turn."""
    keys = {(record.topic, record.partition, record.offset): record.key for record in history.records}
    lines: dict[tuple[str, str, bytes], list[Handled]] = defaultdict(list)
    for row in history.handled:
        key = keys.get((row.topic, row.partition, row.offset))
        if row.state == "done" and key is not None:
            lines[row.service, row.topic, key].append(row)
    for (service, topic, _key), rows in (
        (key, rows) for key, rows in lines.items() if isinstance(key, tuple)
    ):
        rows.sort(key=lambda row: row.offset)
        for before, after in itertools.pairwise(rows):
            if after.at < before.at:
                yield Violation(
                    "reordered", f"{service} handled {topic} {after.offset} before {before.offset}"
                )


def _order_out(history: History) -> Iterator[Violation]:
    """Of one key, what was committed earlier comes earlier in the topic, at its first copy."""
    first: dict[tuple[str, str], Record] = {}
    for record in sorted(history.records, key=lambda record: record.offset):
        first.setdefault((record.topic, record.id), record)
    lines: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
    for one in history.said:
        record = first.get((one.topic, one.id))
        if record is not None and record.key is not None:
            lines[one.service, one.topic, record.partition, record.key].append((one.number, record.offset))
    for line, places in lines.items():
        offsets = [offset for _, offset in sorted(places)]
        if offsets != sorted(offsets):
            yield Violation("reordered", f"{line} left in another order than it was committed")


def _promises(history: History) -> Iterator[Violation]:
    for topic, facts in history.accepted.items():
        there = {record.fact for record in history.records if record.topic == topic}
        for fact in facts:
            if fact not in there:
                yield Violation("lost", f"{fact} was accepted and is not in {topic}")
    for key in set(history.asked) - set(history.answered):
        yield Violation("unanswered", f"the request {key} got no answer")


def _champions(history: History) -> Iterator[Violation]:
    trail: dict[str, list[Promotion]] = defaultdict(list)
    for promotion in history.promotions:
        trail[promotion.model].append(promotion)
    for model, moves in trail.items():
        moves.sort(key=lambda move: move.sequence)
        if [move.sequence for move in moves] != list(range(1, len(moves) + 1)):
            yield Violation("audit", f"{model}: the moves are {[move.sequence for move in moves]}")
        last = next((move.version for move in reversed(moves) if move.alias == "champion"), None)
        for (who, named), version in history.champions.items():
            if named == model and version != last:
                yield Violation("champion", f"{who} has {model}:{version}, the registry moved to {last}")
