"""Which words make two samples of prompts differ: for people who want to know what the users ask now."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from shared.contracts.text import Json

_WORD = re.compile(r"[^\W\d_][\w'’-]{2,39}")
_FEWEST_PROMPTS = 3
"""A word of fewer prompts may be somebody's name."""
_LONGEST_PROMPT = 20_000


def typical(reference: Sequence[str], current: Sequence[str], most: int = 12) -> list[Json]:
    """The words that are more common now than before (z > 0), and less (z < 0), the strongest of each first.

    `now` and `before` count prompts with the word; `z` is the log-odds ratio over its deviation, with the words of both
    samples together as the prior (Monroe, Colaresi, Quinn 2008, "Fightin' Words").
    """
    before, now = _prompts_with(reference), _prompts_with(current)
    both = before + now
    n_before, n_now, n_both = before.total(), now.total(), both.total()
    if not n_before or not n_now:
        return []

    def z(word: str) -> float:
        prior = both[word] * min(n_before, n_now) / n_both
        whole = float(min(n_before, n_now))
        odds = [
            math.log((counts[word] + prior) / (total + whole - counts[word] - prior))
            for counts, total in ((now, n_now), (before, n_before))
        ]
        return (odds[0] - odds[1]) / math.sqrt(1 / (now[word] + prior) + 1 / (before[word] + prior))

    words = [word for word, prompts in both.items() if prompts >= _FEWEST_PROMPTS and len(both) > 1]
    ranked = sorted(((z(word), word) for word in words), reverse=True)
    up, down = ranked[:most], ranked[::-1][:most]
    chosen = [pair for pair in up if pair[0] > 0] + [pair for pair in down if pair[0] < 0]
    return [
        {"word": word, "now": now[word], "before": before[word], "z": round(value, 2)}
        for value, word in chosen
    ]


def _prompts_with(texts: Sequence[str]) -> Counter[str]:
    """In how many prompts each word occurs."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update(set(_WORD.findall(text[:_LONGEST_PROMPT].casefold())))
    return found
