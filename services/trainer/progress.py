"""The rules of the training loop, as pure functions: learning rate, early stop, divergence, time left."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from services.trainer.domain import TrainingFailed
from shared.contracts.policy import Recipe

DIVERGED_FACTOR = 3.0
DIVERGED_STEPS = 3


def total_steps(rows: int, recipe: Recipe) -> int:
    """Optimiser steps of a whole run, at least 1."""
    return max(1, math.ceil(recipe.epochs * math.ceil(rows / recipe.batch_size)))


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """The rate of step `step` (from 0): linear warm-up, then a cosine down to 0 after the last step."""
    warmup = math.ceil(recipe.warmup_share * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Health(NamedTuple):
    """Whether losses still make sense. `first` is the loss of step 1; `bad` counts steps far above it."""

    first: float | None = None
    bad: int = 0

    def after(self, step: int, loss: float, gradient_norm: float) -> "Health":
        """Raises TrainingFailed as soon as the run is lost; step counts from 1."""
        for name, value in (("loss", loss), ("gradient norm", gradient_norm)):
            if not math.isfinite(value):
                raise TrainingFailed(f"diverged at step {step}: the {name} is {value}.", _REMEDY)
        first = loss if self.first is None else self.first
        bad = self.bad + 1 if loss > DIVERGED_FACTOR * first else 0
        if bad >= DIVERGED_STEPS:
            raise TrainingFailed(
                f"diverged at step {step}: the loss is {loss:.3g}, {bad} steps in a row above "
                f"{DIVERGED_FACTOR:g} times the first ({first:.3g}).",
                _REMEDY,
            )
        return Health(first, bad)


_REMEDY = "Lower recipe.learning_rate (a tenth is a good next try), then request the training again."


class Best(NamedTuple):
    """The best validation loss so far, and how many came after it without improvement."""

    loss: float | None = None
    step: int = 0
    stale: int = 0

    def after(self, step: int, loss: float) -> "Best":
        """A loss that is not finite is never the best one."""
        if math.isfinite(loss) and (self.loss is None or loss < self.loss):
            return Best(loss, step)
        return Best(self.loss, self.step, self.stale + 1)


class Pace:
    """When to speak, and how long it will still take.

    Args:
        first: step at which this attempt begins.
        seconds: shortest time between two announcements.
        now: a clock that never goes back, in seconds.
    """

    def __init__(
        self, first: int, total: int, seconds: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._total, self._seconds, self._now = first, total, seconds, now
        self._began = self._spoke = now()

    def due(self) -> bool:
        """True at most once in `seconds`."""
        if self._now() - self._spoke < self._seconds:
            return False
        self._spoke = self._now()
        return True

    def eta(self, step: int) -> float | None:
        """Seconds left at the speed of this attempt; None before its first step."""
        if step <= self._first:
            return None
        return round((self._now() - self._began) / (step - self._first) * (self._total - step), 1)
