"""Learning rate, early stop, divergence, time left."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.domain import TrainingFailed
from services.trainer.progress import Best, Health, Pace, learning_rate, total_steps
from shared.contracts.policy import Recipe


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "steps"),
    [
        (480, 32, 2, 30),
        (481, 32, 1, 16),
        (1, 32, 1, 1),
        (32, 32, 0.01, 1),
        (64, 32, 1.5, 3),
        (100, 1, 3, 300),
    ],
)
def test_steps_of_a_run(rows: int, batch: int, epochs: float, steps: int) -> None:
    assert total_steps(rows, Recipe(batch_size=batch, epochs=epochs)) == steps


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(total: int, warmup: float) -> None:
    recipe = Recipe(learning_rate=0.5, warmup_share=warmup)
    rates = [learning_rate(step, total, recipe) for step in range(total)]
    assert all(0 < rate <= 0.5 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "diverged at step 7: the loss is nan"),
        (math.inf, 1.0, "diverged at step 7: the loss is inf"),
        (1.0, math.nan, "diverged at step 7: the gradient norm is nan"),
        (1.0, math.inf, "diverged at step 7: the gradient norm is inf"),
    ],
)
def test_a_number_that_is_not_finite_ends_the_run(loss: float, norm: float, reason: str) -> None:
    with pytest.raises(TrainingFailed, match=reason) as failed:
        Health(first=2.0).after(7, loss, norm)
    assert "learning_rate" in failed.value.next_step


def test_three_losses_in_a_row_far_above_the_first_end_the_run() -> None:
    health = Health().after(1, 2.0, 1.0).after(2, 7.0, 1.0).after(3, 7.0, 1.0)
    with pytest.raises(
        TrainingFailed, match="diverged at step 4: the loss is 9, 3 steps in a row above 3 times"
    ):
        health.after(4, 9.0, 1.0)
    assert health.after(4, 6.0, 1.0).bad == 0


@given(st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=40))
def test_the_best_is_the_first_smallest_and_stale_counts_since_then(losses: list[float]) -> None:
    best = Best()
    for step, loss in enumerate(losses, start=1):
        best = best.after(step, loss)
    assert best.loss == min(losses)
    assert best.step == losses.index(min(losses)) + 1
    assert best.stale == len(losses) - best.step


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    assert Best().after(1, math.nan) == Best(None, 0, 1)
    assert Best(1.0, 1).after(2, math.inf) == Best(1.0, 1, 1)


def test_it_speaks_at_most_once_in_a_while_and_says_how_long_it_will_take() -> None:
    times = iter([0.0, 1.0, 4.0, 4.0, 6.9, 10.0, 20.0])
    pace = Pace(first=5, total=30, seconds=3, now=lambda: next(times))
    assert pace.due() is False
    assert pace.due() is True
    assert pace.due() is False
    assert pace.eta(step=5) is None
    assert pace.eta(step=10) == 40  # 5 steps in 10 s, 20 to go
    assert pace.eta(step=30) == 0
