"""When the monitor speaks, what it says, and when it holds its tongue."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.verdict import Look, Past, decide
from shared.contracts.policy import DriftPolicy, RetrainGovernor

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GRACE = timedelta(seconds=60)
LONG_AGO = NOW - timedelta(days=9)
FACT = {"D": True, "d": False, "?": None, "H": True, "h": False, "!": True, ".": False}


def looks(text: str) -> list[Look]:
    """`DH.` = drifted, hurt, no alarm; `?` = not known; newest last."""
    return [
        Look(f"w{n}", LONG_AGO, FACT[drifted], FACT[hurt], alarmed=FACT[alarm] is True)
        for n, (drifted, hurt, alarm) in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("k_of_n", "windows", "verdict"),
    [
        ((1, 2), "", "none"),
        ((1, 2), "dh.", "none"),
        ((1, 2), "DH.", "retrain"),
        ((1, 2), "Dh.", "label"),
        ((1, 2), "D?.", "label"),
        ((1, 2), "dH.", "watch"),
        ((1, 2), "dh!", "watch"),
        ((1, 2), "?H.", "watch"),
        ((1, 2), "??.", "none"),
        ((1, 2), "Dh!", "label"),
        # Drift and loss may be seen in different windows, as feedback comes late.
        ((1, 2), "DH. D?.", "retrain"),
        ((1, 2), "dH. D?.", "retrain"),
        # What the newest window denies is over.
        ((1, 2), "DH. dh.", "none"),
        ((1, 2), "DH. Dh.", "label"),
        ((1, 2), "DH. dH.", "watch"),
        # k of n: too few of them say so, or they are too old to be looked at.
        ((2, 3), "DH.", "none"),
        ((2, 3), "DH. dh. DH.", "retrain"),
        ((2, 3), "DH. DH. dh. dh. DH.", "none"),
        ((2, 2), "Dh. Dh.", "label"),
        ((2, 2), "?H. DH.", "watch"),
        # Too little data is not a no, and not a yes.
        ((2, 3), "DH. ??. DH.", "retrain"),
        ((2, 3), "DH. ??. ??.", "none"),
    ],
)
def test_verdicts(k_of_n: tuple[int, int], windows: str, verdict: str) -> None:
    rule = DriftPolicy(windows_drifted=k_of_n[0], windows=k_of_n[1])
    decision = decide(looks(windows), [], rule, RetrainGovernor(), NOW, GRACE)
    assert decision.verdict == verdict
    assert decision.reason


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("windows", "past", "verdict"),
    [
        ("DH.", [Past("old", "retrain", ago(3_599))], "none"),
        ("DH.", [Past("old", "retrain", ago(3_600))], "retrain"),
        ("DH.", [Past("old", "retrain", ago(9_999), in_flight=True)], "none"),
        ("Dh.", [Past("old", "retrain", ago(9_999), in_flight=True)], "none"),
        ("dH.", [Past("old", "retrain", ago(9_999), in_flight=True)], "none"),
        # A louder verdict is not held by a quieter one, so late feedback can turn label into retrain.
        ("DH.", [Past("w0", "label", ago(5))], "retrain"),
        ("DH.", [Past("old", "watch", ago(5))], "retrain"),
        ("Dh.", [Past("old", "watch", ago(5))], "label"),
        # A quieter or equal one is.
        ("Dh.", [Past("old", "label", ago(5))], "none"),
        ("Dh.", [Past("old", "retrain", ago(5))], "none"),
        ("dH.", [Past("old", "label", ago(5))], "none"),
        ("dH.", [Past("old", "watch", ago(4_000))], "watch"),
        # Once per window, however long ago.
        ("DH.", [Past("w0", "retrain", ago(99_999))], "none"),
        ("Dh.", [Past("w0", "label", ago(99_999))], "none"),
    ],
)
def test_what_holds_a_verdict(windows: str, past: list[Past], verdict: str) -> None:
    assert decide(looks(windows), past, DriftPolicy(), RetrainGovernor(), NOW, GRACE).verdict == verdict


def test_a_fresh_drift_waits_for_feedback_before_it_asks_for_labels() -> None:
    fresh = [Look("w0", ago(59), drifted=True, hurt=None)]
    waiting = decide(fresh, [], DriftPolicy(), RetrainGovernor(), NOW, GRACE)
    assert waiting.verdict == "none"
    assert "waiting for feedback" in waiting.reason
    assert decide(fresh, [], DriftPolicy(), RetrainGovernor(), NOW + GRACE, GRACE).verdict == "label"
    known = [Look("w0", ago(59), drifted=True, hurt=False)]
    assert decide(known, [], DriftPolicy(), RetrainGovernor(), NOW, GRACE).verdict == "label"


maybe = st.sampled_from([True, False, None])
windows_st = st.lists(st.tuples(maybe, maybe, st.booleans(), st.floats(0, 1e5)), max_size=8).map(
    lambda rows: [Look(f"w{n}", ago(age), d, h, a) for n, (d, h, a, age) in enumerate(rows)]
)
past_st = st.lists(
    st.builds(
        Past,
        window_id=st.sampled_from([f"w{n}" for n in range(8)] + ["old"]),
        verdict=st.sampled_from(["watch", "label", "retrain"]),
        at=st.floats(0, 1e5).map(ago),
        in_flight=st.booleans(),
    ),
    max_size=6,
)
rule_st = st.tuples(st.integers(1, 5), st.integers(1, 5)).map(
    lambda kn: DriftPolicy(windows=max(kn), windows_drifted=min(kn))
)
governor_st = st.builds(RetrainGovernor, cooldown_seconds=st.floats(0, 1e5))


@given(windows_st, past_st, rule_st, governor_st)
def test_a_retraining_needs_drift_loss_quiet_and_no_other(
    windows: list[Look], past: list[Past], rule: DriftPolicy, governor: RetrainGovernor
) -> None:
    if decide(windows, past, rule, governor, NOW, GRACE).verdict != "retrain":
        return
    recent = windows[-rule.windows :]
    assert sum(look.drifted is True for look in recent) >= rule.windows_drifted
    assert sum(look.hurt is True for look in recent) >= rule.windows_drifted
    assert not any(one.in_flight for one in past)
    quiet = timedelta(seconds=governor.cooldown_seconds)
    assert all(NOW - one.at >= quiet for one in past if one.verdict == "retrain")
    assert ("retrain", recent[-1].window_id) not in [(one.verdict, one.window_id) for one in past]


@given(windows_st, past_st, rule_st, governor_st)
def test_the_same_window_never_says_the_same_twice(
    windows: list[Look], past: list[Past], rule: DriftPolicy, governor: RetrainGovernor
) -> None:
    first = decide(windows, past, rule, governor, NOW, GRACE)
    if first.verdict == "none":
        return
    said = [*past, Past(windows[-1].window_id, first.verdict, NOW)]
    much_later = NOW + timedelta(days=999)
    assert decide(windows, said, rule, governor, much_later, GRACE).verdict != first.verdict


@given(windows_st, rule_st)
def test_windows_that_know_nothing_never_speak(windows: list[Look], rule: DriftPolicy) -> None:
    blind = [Look(look.window_id, look.measured_at, None, None) for look in windows]
    assert decide(blind, [], rule, RetrainGovernor(), NOW, GRACE).verdict == "none"


@given(windows_st, rule_st)
def test_more_bad_news_never_makes_it_quieter(windows: list[Look], rule: DriftPolicy) -> None:
    loudness = ["none", "watch", "label", "retrain"]
    worse = [Look(look.window_id, LONG_AGO, True, True, True) for look in windows]
    old = [Look(look.window_id, LONG_AGO, look.drifted, look.hurt, look.alarmed) for look in windows]
    quiet = decide(old, [], rule, RetrainGovernor(), NOW, GRACE).verdict
    loud = decide(worse, [], rule, RetrainGovernor(), NOW, GRACE).verdict
    assert loudness.index(loud) >= loudness.index(quiet)
