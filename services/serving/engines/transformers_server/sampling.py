"""Which token comes next: the most likely one, or one drawn at a temperature from the nucleus."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


class NotFinite(ArithmeticError):
    """The network computed NaN or infinity: no token can be chosen."""


@dataclass(frozen=True)
class Choice:
    """A token and its log-probability under the model itself, whatever the temperature (nats)."""

    token: int
    logprob: float


def choose(logits: Tensor, temperature: float, top_p: float, generator: Generator | None) -> Choice:
    """Choose from `logits` [vocabulary], float32. A temperature of 0 takes the most likely token.

    Raises NotFinite.
    """
    logprobs = logits.log_softmax(-1)
    if temperature == 0:
        token = int(logprobs.argmax())
    else:
        token = int(torch.multinomial(nucleus(logits / temperature, top_p), 1, generator=generator))
    logprob = float(logprobs[token])
    if not torch.isfinite(logprobs[token]):
        raise NotFinite("the network's output is not finite")
    return Choice(token, logprob)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities [vocabulary] of the smallest set of likeliest tokens that holds `top_p` of all; others get 0."""
    probabilities = logits.softmax(-1)
    if not bool(probabilities.isfinite().all()):
        raise NotFinite("the network's output is not finite")
    if top_p >= 1:
        return probabilities
    ordered, index = probabilities.sort(descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(0, index, ordered.masked_fill(outside, 0.0))
