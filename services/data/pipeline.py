"""From records to kept rows: pure generator stages, so memory stays flat and every rule is a function.

parse -> check (first rule that refuses names the reason) -> deduplicate and split -> cap our own answers -> count.
A `Reject` passes through all stages untouched; in the end read = kept + sum of dropped.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.data.formats import FORMATS, Format, detect
from services.data.readers.lines import Broken
from services.data.rows import SPLITS, Kept, Placed, Reason, Record, Reject, Row, Turn, Unfit, marks
from services.data.rows import excerpt as excerpt_of
from shared.contracts.errors import Invalid
from shared.contracts.policy import DataPolicy
from shared.contracts.text import Json

Check = Callable[[Sequence[Turn]], Reason | None]
_SAMPLES = 10
_SAMPLES_PER_REASON = 3
_ANSWERS = 2


class TokenCounter(Protocol):
    """What the pipeline wants to know of the base model; `services.data.tokens` answers."""

    @property
    def control(self) -> Sequence[str]:
        """Special tokens that frame messages."""
        ...

    def fits(self, messages: Sequence[Turn], limit: int) -> bool:
        """Whether the conversation has at most `limit` tokens."""
        ...


@dataclass
class Tally:
    """What became of every row read: read = sum of rows + sum of dropped."""

    read: int = 0
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: dict[str, int] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    answers: set[str] = field(default_factory=set)
    """The first few different answers."""
    lengths: Json = field(default_factory=dict)
    """Histograms of the kept rows, once all were seen: `services.data.lengths`."""

    def keep(self, kept: Kept) -> None:
        self.rows[kept.split] += 1
        if len(self.answers) < _ANSWERS:
            self.answers.add(kept.row.messages[-1].content)

    def drop(self, reject: Reject) -> None:
        number = self.dropped[reject.reason] = self.dropped.get(reject.reason, 0) + 1
        if len(self.rejects) < _SAMPLES and number <= _SAMPLES_PER_REASON:
            self.rejects.append(reject)


def parse(
    records: Iterable[tuple[int, Record | Broken]], origin: str, name: str, format_name: str | None
) -> Iterator[Placed | Reject]:
    """Rows of one uploaded file. Without a given format, the first row that fits one decides for the file."""
    known: Format | None = FORMATS[format_name] if format_name else None
    for number, record in records:
        place = f"{name}:{number}"
        if isinstance(record, Broken):
            yield Reject(record.reason, place, excerpt_of(record.excerpt))
            continue
        if known is None and (found := detect(record)):
            known = FORMATS[found]
        try:
            if known is None:
                raise Unfit("fits no format")
            messages = [Turn(turn.role, turn.content.strip()) for turn in known.to_messages(record)]
            yield Placed(Row(messages, "upload", origin), place)
        except Unfit:
            yield Reject("unknown_shape", place, excerpt_of(record))


def storable(messages: Sequence[Turn]) -> Reason | None:
    for turn in messages:
        if "\x00" in turn.content or not _is_unicode(turn.content):
            return "bad_text"
    return None


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def conversational(messages: Sequence[Turn]) -> Reason | None:
    """An optional system message, then user and assistant in turn, the assistant last."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if len(turns) < 2 or len(turns) % 2:
        return "wrong_role"
    if any(turn.role != ("assistant" if index % 2 else "user") for index, turn in enumerate(turns)):
        return "wrong_role"
    return None


def filled(messages: Sequence[Turn]) -> Reason | None:
    return None if all(turn.content for turn in messages) else "empty"


def sized(policy: DataPolicy) -> Check:
    """Characters: prompt and answer each long enough, together short enough."""

    def check(messages: Sequence[Turn]) -> Reason | None:
        answer = len(messages[-1].content)
        prompt = sum(len(turn.content) for turn in messages) - answer
        if min(prompt, answer) < policy.min_chars:
            return "too_short"
        return "too_long" if prompt + answer > policy.max_chars else None

    return check


def unforged(control: Sequence[str]) -> Check:
    """No control token of the chat template inside a message: it would end the message and forge another."""

    def check(messages: Sequence[Turn]) -> Reason | None:
        return (
            "control_token" if any(token in turn.content for turn in messages for token in control) else None
        )

    return check


def remembered(erased: Collection[bytes]) -> Check:
    """No prompt that somebody has taken back."""

    def check(messages: Sequence[Turn]) -> Reason | None:
        return "erased" if erased and marks(list(messages)).prompt in erased else None

    return check


def rules(policy: DataPolicy, tokens: TokenCounter, erased: Collection[bytes] = frozenset()) -> list[Check]:
    """Every check of a single row, cheapest first; each relies on those before it."""
    return [
        conversational,
        filled,
        storable,
        remembered(erased),
        unforged(tokens.control),
        sized(policy),
        lambda messages: None if tokens.fits(messages, policy.max_tokens) else "too_many_tokens",
    ]


def run(
    rows: Iterable[Placed | Reject],
    checks: Sequence[Check],
    max_own_share: float,
    tally: Tally,
    max_rows: int,
) -> Iterator[Kept]:
    return count(cap_own(deduplicate(check(rows, checks)), max_own_share), tally, max_rows)


def check(items: Iterable[Placed | Reject], checks: Sequence[Check]) -> Iterator[Placed | Reject]:
    """Drop a row at the first check that refuses it."""
    for item in items:
        if isinstance(item, Placed):
            reason = next((found for rule in checks if (found := rule(item.row.messages))), None)
            if reason:
                yield Reject(reason, item.place, "") if reason == "erased" else refuse(item, reason)
                continue
        yield item


def refuse(item: Placed | Kept, reason: Reason) -> Reject:
    said = " | ".join(turn.content[:200] for turn in item.row.messages)
    return Reject(reason, item.place, excerpt_of(said))


def deduplicate(items: Iterable[Placed | Reject]) -> Iterator[Kept | Reject]:
    """Keep the first answer to each prompt; a repetition is a duplicate, another answer a conflict.

    Memory: about 200 bytes per kept row. So what should win comes first: corrections before older rows.
    """
    answers: dict[bytes, bytes] = {}
    for item in items:
        if isinstance(item, Reject):
            yield item
            continue
        mark = marks(item.row.messages)
        known = answers.get(mark.prompt)
        if known is None:
            answers[mark.prompt] = mark.answer
            yield Kept(item.row, mark.split, item.place)
        else:
            yield refuse(item, "duplicate" if known == mark.answer else "conflicting_answer")


def cap_own(items: Iterable[Kept | Reject], share: float) -> Iterator[Kept | Reject]:
    """Our own answers only train, and make up at most `share` of the training rows. They must come last."""
    train = own = 0
    for item in items:
        if isinstance(item, Kept):
            ours = item.row.label == "model"
            if ours and item.split != "train":
                yield refuse(item, "own_answer_held_out")
                continue
            if ours and own + 1 > share * (train + 1):
                yield refuse(item, "own_answer_cap")
                continue
            own += ours
            train += item.split == "train"
        yield item


def count(items: Iterable[Kept | Reject], tally: Tally, max_rows: int) -> Iterator[Kept]:
    """Raises Invalid when more than `max_rows` rows come."""
    for item in items:
        tally.read += 1
        if tally.read > max_rows:
            raise Invalid(
                f"There are more than {max_rows} rows.", "Use fewer files, or raise the setting max_rows."
            )
        if isinstance(item, Reject):
            tally.drop(item)
        else:
            tally.keep(item)
            yield item


def shortcoming(tally: Tally, policy: DataPolicy) -> str | None:
    """Why these rows are no dataset, or None."""
    kept = sum(tally.rows.values())
    dropped = sorted(tally.dropped.items(), key=lambda item: -item[1])
    lost = f" Dropped: {', '.join(f'{number} {reason}' for reason, number in dropped)}." if dropped else ""
    if kept < policy.min_rows:
        return f"{kept} of {tally.read} rows were kept, {policy.min_rows} are needed (data.min_rows).{lost}"
    if empty := [split for split, number in tally.rows.items() if not number]:
        return f"No row fell into {' and '.join(empty)}: {kept} kept rows are too few to split.{lost}"
    if len(tally.answers) < _ANSWERS:
        return f"All {kept} kept rows have the same answer: there is nothing to learn.{lost}"
    return None
