"""Numbers become facts: with a bar each, and unknown where there is too little."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.evidence import Drift, Facts, Traffic, severity, weigh
from shared.contracts.policy import DriftPolicy

RULE = DriftPolicy(
    min_feedback=30, max_quality_loss=0.15, max_error_rate=0.1, max_latency_p99_ms=1_000, min_score=0.65
)
QUIET = Traffic(answers=100, errors=0, latency_p99_ms=50, scored=100, mean_score=0.8)


def traffic(**changed: float | None) -> Traffic:
    return Traffic(**{**{name: getattr(QUIET, name) for name in Traffic.__slots__}, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "promised", "hurt"),
    [
        (traffic(mean_score=0.65), 0.8, False),  # exactly the tolerated loss is accepted
        (traffic(mean_score=0.649), 0.8, True),
        (traffic(mean_score=0.95), 0.8, False),
        (traffic(mean_score=0.0, scored=29), 0.8, None),
        (traffic(mean_score=None, scored=0), 0.8, None),
        (traffic(mean_score=0.0), None, None),
    ],
)
def test_quality(seen: Traffic, promised: float | None, hurt: bool | None) -> None:
    assert weigh(None, seen, promised, RULE).hurt is hurt


@pytest.mark.parametrize(
    ("drift", "drifted"),
    [(None, None), (Drift(0.65, 0.65), True), (Drift(0.649, 0.65), False), (Drift(0.9, 0.95), False)],
)
def test_drift(drift: Drift | None, drifted: bool | None) -> None:
    assert weigh(drift, QUIET, 0.8, RULE).drifted is drifted


@pytest.mark.parametrize(
    ("seen", "alarmed"),
    [
        (QUIET, False),
        (traffic(errors=10), False),
        (traffic(errors=11), True),
        (traffic(latency_p99_ms=1_000), False),
        (traffic(latency_p99_ms=1_001), True),
        (traffic(errors=100, latency_p99_ms=None), True),
        (traffic(answers=0, latency_p99_ms=None), False),
    ],
)
def test_alarms(seen: Traffic, alarmed: bool) -> None:
    assert weigh(None, seen, 0.8, RULE).alarmed is alarmed


def test_evidence_tells_value_bar_and_where_it_comes_from() -> None:
    facts = weigh(Drift(0.9, 0.65), traffic(mean_score=0.3, errors=20), 0.8, RULE)
    told = {item.name: (item.value, item.threshold, item.exceeded) for item in facts.evidence}
    assert told["text_domain"] == (0.9, 0.65, True)
    assert told["quality_loss"] == (pytest.approx(0.5), 0.15, True)
    assert told["error_rate"] == (0.2, 0.1, True)
    assert told["latency_p99_ms"] == (50, 1_000, False)
    assert "promised 0.800, seen 0.300 on 100" in next(
        i.detail for i in facts.evidence if i.name == "quality_loss"
    )
    assert severity(facts.evidence) == pytest.approx(0.8)


@given(
    st.none() | st.builds(Drift, st.floats(0, 1), st.floats(0.5, 1)),
    st.builds(
        Traffic,
        answers=st.integers(0, 100),
        errors=st.integers(0, 100),
        latency_p99_ms=st.none() | st.floats(0, 1e12),
        scored=st.integers(0, 100),
        mean_score=st.none() | st.floats(0, 1),
    ),
    st.none() | st.floats(0, 1),
)
def test_severity_is_a_share_and_nothing_exceeded_is_none(
    drift: Drift | None, seen: Traffic, promised: float | None
) -> None:
    facts: Facts = weigh(drift, seen, promised, RULE)
    assert 0 <= severity(facts.evidence) <= 1
    if not any(item.exceeded for item in facts.evidence):
        assert severity(facts.evidence) == 0
        assert not any((facts.drifted, facts.hurt, facts.alarmed))
