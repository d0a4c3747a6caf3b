"""From conversations to packed training sequences: which tokens are learned, and how rows share one forward pass."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Turn = dict[str, str]


class Tokeniser(Protocol):
    """What `build` needs of a chat tokenizer."""

    @property
    def eos_id(self) -> int | None: ...
    def render(self, messages: Sequence[Turn], *, add_generation_prompt: bool = False) -> str: ...
    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation. `learned[i]` says whether token `i` is predicted (assistant tokens only)."""

    tokens: tuple[int, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """Several examples as one sequence of T tokens whose common beginning appears once.

    `segments[i]` is 0 in the shared prefix and counts from 1 after it: a token sees the prefix and its own segment,
    causally. `predictors[j]` is the position whose output predicts the token `targets[j]`.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    segments: tuple[int, ...]
    predictors: tuple[int, ...]
    targets: tuple[int, ...]


def build(tokeniser: Tokeniser, messages: Sequence[Turn], max_length: int) -> Example | None:
    """Encode a conversation; None if it is longer than `max_length` tokens or has nothing to learn.

    The prompt and each answer are encoded apart, so the model is trained on the very tokens it is asked with.
    An answer is learned up to and including the end-of-turn token; what the template adds after it is not.
    """
    tokens: list[int] = []
    learned: list[bool] = []
    done = ""
    for index, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        prompt = tokeniser.render(messages[:index], add_generation_prompt=True)
        whole = tokeniser.render(messages[: index + 1])
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise ValueError(
                "the chat template rewrites earlier turns, so answers cannot be told from prompts"
            )
        before, answer = tokeniser.encode(prompt[len(done) :]), tokeniser.encode(whole[len(prompt) :])
        eos = tokeniser.eos_id
        end = answer.index(eos) + 1 if eos in answer else len(answer)
        tokens += before + answer
        learned += [False] * len(before) + [True] * end + [False] * (len(answer) - end)
        done = whole
    while learned and not learned[-1]:
        tokens.pop()
        learned.pop()
    if not learned or len(tokens) > max_length or learned[0]:
        return None
    return Example(tuple(tokens), tuple(learned))


def batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The order of one epoch: every index once, in batches; a function of seed and epoch alone, so it can be resumed."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311 (an order, not a secret)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def pack(examples: Iterable[Example], budget: int) -> Iterator[Pack]:
    """Fill packs of at most `budget` tokens (a longer example gets its own); neighbours share the longest beginning."""
    group: list[Example] = []
    prefix = 0
    for example in sorted(examples, key=lambda one: one.tokens):
        shared = _common(group[0], example, prefix) if group else _prompt_length(example)
        if group and shared + sum(len(one.tokens) - shared for one in (*group, example)) > budget:
            yield _merge(group, prefix)
            group, shared = [], _prompt_length(example)
        group.append(example)
        prefix = shared
    if group:
        yield _merge(group, prefix)


def _prompt_length(example: Example) -> int:
    """Tokens that may be shared: all before the one that predicts the first learned token."""
    return example.learned.index(True) - 1


def _common(first: Example, second: Example, limit: int) -> int:
    limit = min(limit, _prompt_length(second))
    return next((i for i in range(limit) if first.tokens[i] != second.tokens[i]), limit)


def _merge(group: Sequence[Example], prefix: int) -> Pack:
    tokens, positions, segments = list(group[0].tokens[:prefix]), list(range(prefix)), [0] * prefix
    predictors: list[int] = []
    targets: list[int] = []
    for segment, example in enumerate(group, start=1):
        offset = len(tokens) - prefix
        for index in range(prefix, len(example.tokens)):
            if example.learned[index]:
                predictors.append(offset + index - 1)
                targets.append(example.tokens[index])
            tokens.append(example.tokens[index])
            positions.append(index)
            segments.append(segment)
    return Pack(tuple(tokens), tuple(positions), tuple(segments), tuple(predictors), tuple(targets))
