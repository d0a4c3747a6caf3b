"""The pages of drift, drawn from documents that the monitor itself makes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.console.pages.drift import fact, quality, series
from services.monitor.api import drift_view, watched_view, window_view
from services.monitor.domain import Drift, Promotion, Watched, Window
from services.monitor.evidence import Drift as DriftFact
from services.monitor.evidence import Traffic, weigh
from shared.contracts.policy import DriftPolicy, RetrainGovernor
from tests.unit.console.pages.conftest import Browser, Door

NOW = datetime.now(UTC).replace(microsecond=0)
ID = "window-0199"
PATH = f"/drift/{ID}"
RULE = DriftPolicy()
WORDS = [
    {"word": "flight", "now": 31, "before": 0, "z": 7.1},
    {"word": "card", "now": 0, "before": 90, "z": -5.2},
]


def window(name: str = ID, minutes: int = 5, score: float = 0.94, mean: float = 0.41, **more: Any) -> Window:
    traffic = Traffic(100, 1, 820.0, 80, mean, 33)
    facts = weigh(DriftFact(score, 0.657), traffic, 0.79, RULE)
    known: dict[str, Any] = {
        "id": name,
        "model": "support",
        "sequence": 1,
        "model_version": 6,
        "dataset_digest": "d" * 64,
        "state": "measured",
        "first_id": 1,
        "middle_id": 50,
        "last_id": 100,
        "predictions": 100,
        "started_at": NOW - timedelta(minutes=minutes + 9),
        "ended_at": NOW - timedelta(minutes=minutes),
        "opened_at": NOW - timedelta(minutes=minutes),
        "measured_at": NOW - timedelta(minutes=minutes),
        "score": score,
        "bar": 0.657,
        "drifted": facts.drifted,
        "hurt": facts.hurt,
        "scored": 80,
        "mean_score": mean,
        "corrected": 33,
        "evidence": [item.model_dump() for item in facts.evidence],
        "notes": ["100 of 100 answers have a readable prompt", "compared with 480 training prompts"],
        "report_sha256": "e" * 64,
        "has_page": True,
        "verdict": "retrain",
        "reason": "the text drifted and quality fell",
    }
    return Window(**{**known, **more})


def drift(**more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": "drift-0199",
        "model": "support",
        "model_version": 6,
        "window_id": ID,
        "verdict": "retrain",
        "severity": 0.88,
        "event_id": "0199aaaa",
        "announced_at": NOW - timedelta(minutes=4),
        "stage": "waits for 18 more corrected answers: 12 of 30 since version 6 serves",
    }
    return drift_view(Drift(**{**known, **more}))


def watched(model: str = "support") -> dict[str, Any]:
    row = Watched(
        model=model, revision=1, drift=RULE.model_dump(), retrain=RetrainGovernor(cooldown_seconds=600).model_dump()
    )  # fmt: skip
    serves = Promotion(
        model=model, sequence=1, model_version=6, dataset_digest="d" * 64, quality=0.79, promoted_at=NOW
    )
    return watched_view(row, serves)


HEALTH = {
    "model": "support",
    "champion": 6,
    "versions": [
        {
            "model_version": 6,
            "answers": 1_930,
            "errors": 11,
            "error_rate": 11 / 1_930,
            "error_interval": {"low": 0.003, "high": 0.01},
            "latency_p50_ms": 118.0,
            "latency_p99_ms": 1_390.0,
            "first_token_p50_ms": None,
            "scored": 640,
            "mean_score": 0.71,
            "score_interval": {"low": 0.67, "high": 0.74},
            "corrected": 33,
            "promised": 0.79,
        }
    ],
    "rollouts": [],
}
BUILD = {
    "id": "build-1",
    "model": "support",
    "state": "waiting",
    "digest": None,
    "drift_id": "drift-0199",
    "detail": "Waiting for corrected answers: 12 of 30 have come in.",
}


@pytest.fixture
def shown(door: Door) -> Door:
    calm = window("window-0198", 20, 0.55, 0.8, verdict="none", reason="within bounds", has_page=False)
    door.says |= {
        ("monitor", "/watched"): {"watched": [watched()]},
        ("monitor", "/windows"): {"windows": [window_view(window()), window_view(calm)], "has_more": True},
        ("monitor", "/drifts"): {"drifts": [drift()], "has_more": False},
        ("monitor", "/health-of-versions"): HEALTH,
        ("monitor", f"/windows/{ID}"): window_view(window()),
        ("monitor", f"/reports/{ID}.json"): {"window": ID, "report": {"metrics": [], "words": WORDS}},
        ("monitor", f"/reports/{ID}.html"): "<!DOCTYPE html><script>evil()</script>",
        ("monitor", "/drifts/drift-0199"): {**drift(), "window": window_view(window())},
        ("data", "/datasets"): {"datasets": [BUILD], "has_more": False},
    }
    return door


def test_the_page_shows_windows_verdicts_and_health(browser: Browser, shown: Door) -> None:
    text = browser.sees("/drift")
    for word in (
        "support: what is watched",
        "/drift/scores.json?model=support",
        "waits for 18 more corrected answers",
        "the text drifted and quality fell",
        "within bounds",
        "1,930",
        "0.6 %",
        "[67.0 %, 74.0 %]",
        "79.0 %",
        "1.4 s",
    ):
        assert word in text, word
    assert "/drift?model=support&amp;hours=24&amp;after=window-0198" in text
    browser.sees("/drift?hours=168&model=other&after=window-0198")
    asked = {path: params for _, _, path, params, _ in shown.asked[-3:]}
    assert asked["/windows"] == {"model": "other", "after": "window-0198", "limit": "50"}
    assert asked["/health-of-versions"] == {"model": "other", "hours": "168"}


def test_several_models_can_be_chosen(browser: Browser, shown: Door) -> None:
    shown.says["monitor", "/watched"] = {"watched": [watched("alpha"), watched("support")]}
    assert "<option selected>support</option>" in browser.sees("/drift?model=support")
    assert "<option selected>alpha</option>" in browser.sees("/drift")


def test_nothing_watched_nothing_measured(browser: Browser, door: Door) -> None:
    door.says["monitor", "/watched"] = {"watched": []}
    assert "No model is watched yet" in browser.sees("/drift")
    door.says |= {
        ("monitor", "/watched"): {"watched": [watched()]},
        ("monitor", "/windows"): {"windows": [], "has_more": False},
        ("monitor", "/drifts"): {"drifts": [], "has_more": False},
        ("monitor", "/health-of-versions"): {**HEALTH, "versions": []},
    }
    text = browser.sees("/drift")
    for word in ("No window yet", "No verdict yet", "No answer in this time"):
        assert word in text


def test_a_window_shows_its_evidence_and_what_came_of_it(browser: Browser, shown: Door) -> None:
    text = browser.sees(PATH)
    for word in (
        "Drift score (text_domain)",
        "0.94",
        "promised 0.790, seen 0.410 on 80 scored answers",
        "1 of 100 answers failed",
        "820 ms",
        "80 of 100 answers are scored, 33 corrected",
        "flight",
        "Waiting for corrected answers: 12 of 30 have come in.",
        "/datasets/build-1",
        "/trace/0199aaaa",
        f'<iframe class="report" sandbox="allow-scripts" src="{PATH}/report"',
        f"{PATH}/report?download=true",
        "driftwheel drifts show drift-0199",
    ):
        assert word in text, word


def test_a_flight_links_what_it_made(browser: Browser, shown: Door) -> None:
    shown.says["data", "/datasets"] = None
    made = drift(dataset_digest="f" * 64, run_id="run-12", new_version=7, ended_at=NOW, outcome="promoted")
    shown.says["monitor", "/drifts"] = {"drifts": [made], "has_more": False}
    text = browser.sees(PATH)
    for word in (f"/datasets/{'f' * 64}", "/runs/run-12", "/models/support/versions/7", "promoted"):
        assert word in text, word


def test_a_window_without_report_scores_or_words_says_so(browser: Browser, shown: Door) -> None:
    bare = window(
        has_page=False, scored=0, mean_score=None, evidence=[], verdict="none", drifted=None, hurt=None
    )
    shown.says["monitor", f"/windows/{ID}"] = window_view(bare)
    shown.says["monitor", f"/reports/{ID}.json"] = 404
    shown.says["monitor", "/drifts"] = {"drifts": [], "has_more": False}
    text = browser.sees(PATH)
    for word in (
        "There is no report of this window",
        "No answer of this window is scored",
        "announced nothing",
    ):
        assert word in text
    assert "<iframe" not in text
    for state in ("measuring", "failed"):
        bare = window(state=state, evidence=[])
        shown.says["monitor", f"/windows/{ID}"] = {**window_view(bare), "score": None, "bar": None}
        assert state in browser.sees(PATH)


def test_the_report_is_handed_out_in_a_sandbox(browser: Browser, shown: Door) -> None:
    answer = browser.http.get(f"{PATH}/report")
    assert answer.text == "<!DOCTYPE html><script>evil()</script>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-disposition" not in answer.headers
    kept = browser.http.get(f"{PATH}/report?download=true")
    assert kept.headers["content-disposition"] == f'attachment; filename="{ID}.html"'
    assert kept.headers["content-security-policy"] == policy
    for said in (404, None):
        shown.says["monitor", f"/reports/{ID}.html"] = said
        text = browser.sees(f"{PATH}/report", 404)
        assert "There is no report of this window" in text
    browser.signs_in("chat")
    assert browser.http.get(f"{PATH}/report").status_code == 403


def test_a_drift_leads_to_its_window(browser: Browser, shown: Door) -> None:
    assert browser.http.get("/drift/drift-0199").headers["location"] == PATH
    assert browser.http.get("/drift/drift-none").status_code == 404


def test_the_monitor_is_away(browser: Browser, door: Door) -> None:
    for path in ("/watched", "/windows", "/drifts", "/health-of-versions", f"/windows/{ID}"):
        door.says["monitor", path] = None
    assert "monitor does not answer" in browser.sees("/drift")
    assert "monitor does not answer" in browser.sees("/drift?model=support")
    assert "monitor does not answer" in browser.sees(PATH)
    assert browser.http.get("/drift/scores.json?model=support").status_code == 503
    del door.says["monitor", f"/windows/{ID}"]
    assert "monitor said 404" in browser.sees(PATH, 404)


def test_hostile_text_stays_text(browser: Browser, shown: Door) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    one = window_view(window(reason=evil, notes=[evil]))
    shown.says["monitor", f"/windows/{ID}"] = one
    shown.says["monitor", "/windows"] = {"windows": [one], "has_more": False}
    shown.says["monitor", "/drifts"] = {"drifts": [drift(stage=evil)], "has_more": False}
    shown.says["monitor", f"/reports/{ID}.json"] = {"report": {"words": [{**WORDS[0], "word": evil}]}}
    shown.says["data", "/datasets"] = {"datasets": [{**BUILD, "detail": evil}], "has_more": False}
    for path in ("/drift", "/drift?model=%3Cscript%3Ealert", PATH, "/drift/%3Cscript%3Ealert"):
        text = browser.http.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_the_chart_is_in_time_order_with_its_bounds(browser: Browser, shown: Door) -> None:
    found = browser.http.get("/drift/scores.json?model=support").json()
    assert found["x"] == sorted(found["x"])
    by = {line["label"]: (line["dash"], line["values"]) for line in found["series"]}
    assert by["drift score"] == (False, [0.55, 0.94])
    assert by["counts as drift"] == (True, [0.657, 0.657])
    assert by["quality"] == (False, [0.8, 0.41])
    assert by["hurts below"] == (True, [pytest.approx(0.64), pytest.approx(0.64)])
    assert series([window_view(window(state="failed"))])["x"] == []


def test_quality_is_only_known_with_enough_scores() -> None:
    assert quality(window_view(window(evidence=[]))) is None
    found = quality(window_view(window()))
    assert found == {"promised": pytest.approx(0.79), "seen": 0.41, "bound": pytest.approx(0.64)}


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3, 1.0, 1e9])
@pytest.mark.parametrize("name", ["text_domain", "quality_loss", "error_rate", "latency_p99_ms"])
def test_facts_stay_on_their_axis(name: str, value: float) -> None:
    found = fact({"name": name, "value": value, "threshold": 0.65, "exceeded": False, "detail": ""})
    assert all(0 <= place <= 1 for place in found["at"].values())
