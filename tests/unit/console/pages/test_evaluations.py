"""The list of evaluations, and one with its intervals, gates and answers."""

from typing import Any

import pytest

from services.console.pages.evaluations import metrics, verdict
from tests.unit.console.pages.conftest import Browser, Door

ONE = "eval-0123456789abcdef01234567"
PATH = f"/evaluations/{ONE}"
EVIL = "<script>alert(1)</script>"


def score(subject: str, value: float, metric: str = "exact_match", split: str = "test") -> dict[str, Any]:
    return {
        "subject": subject,
        "split": split,
        "metric": metric,
        "value": value,
        "low": value * 0.9,
        "high": value * 1.1,
        "n": 200,
    }


def gap(versus: str, low: float, value: float, high: float, **other: Any) -> dict[str, Any]:
    found = {"versus": versus, "split": "test", "metric": "exact_match", "n": 200, "higher_is_better": True}
    return {**found, "low": low, "value": value, "high": high, **other}


KEPT = {
    "bucket": "evaluations",
    "key": f"sha256/{'e' * 64}/answers-test.jsonl",
    "sha256": "e" * 64,
    "rival": "champion",
    "rows": 200,
    "kept": 200,
    "regressions": 3,
    "improvements": 12,
}
EVALUATION: dict[str, Any] = {
    "id": ONE,
    "model": "support",
    "run_id": "run-0123456789abcdef01234567",
    "adapter_digest": "a" * 64,
    "base_digest": "b" * 64,
    "dataset_digest": "d" * 64,
    "champion_version": 6,
    "drift_id": "drift-1",
    "state": "done",
    "reason": "exact_match on test is 0.79, wanted at least 0.8",
    "verdict": "fail",
    "verdicts": [
        {
            "gate": "floor",
            "verdict": "fail",
            "value": 0.79,
            "bar": 0.8,
            "reason": "exact_match on test is 0.79",
        },
        {
            "gate": "beats-few-shot",
            "verdict": "pass",
            "value": 0.31,
            "bar": 0.0,
            "reason": "advantage is 0.31",
        },
        {
            "gate": "no-forgetting",
            "verdict": "insufficient",
            "value": None,
            "bar": None,
            "reason": "4 held-out rows on champion_test, 10 are needed",
        },
    ],
    "scores": [
        *(score(who, at) for who, at in (("base", 0.21), ("few_shot", 0.48), ("candidate", 0.79))),
        score("champion", 0.74),
        *(score(who, at, "loss") for who, at in (("base", 4.1), ("candidate", 0.6), ("champion", 0.7))),
        score("champion", 0.9, split="champion_test"),
        score("candidate", 0.8, split="champion_test"),
    ],
    "differences": [
        gap("champion", -0.01, 0.05, 0.11),
        gap("base", 0.5, 0.58, 0.66),
        gap("champion", 0.02, 0.1, 0.2, metric="loss", higher_is_better=False),
        gap("champion", -0.15, -0.1, -0.05, split="champion_test"),
    ],
    "answers": {"test": KEPT, "champion_test": {**KEPT, "regressions": 9, "improvements": 1, "rows": 80}},
    "report": {"bucket": "evaluations", "key": f"sha256/{'f' * 64}/report.json", "sha256": "f" * 64},
    "created_at": "2026-11-25T01:00:00Z",
    "started_at": "2026-11-25T01:00:10Z",
    "finished_at": "2026-11-25T01:03:15Z",
}
SUMMARY = {
    **{
        name: EVALUATION[name]
        for name in EVALUATION
        if name not in ("scores", "differences", "answers", "report")
    },
    "gates": [{"gate": one["gate"], "verdict": one["verdict"]} for one in EVALUATION["verdicts"]],
    "candidate": score("candidate", 0.79),
    "champion": score("champion", 0.74),
}


def answered(text: str, right: bool) -> dict[str, Any]:
    value = float(right)
    return {"answer": text, "finished": True, "exact_match": value, "token_f1": value, "loss": 0.25}


def row(position: int, change: str = "regression", question: str = "Where is my card?") -> dict[str, Any]:
    return {
        "position": position,
        "row": f"{position:064}",
        "change": change,
        "difference": -1.0,
        "messages": [
            {"role": "system", "content": "Name the intent."},
            {"role": "user", "content": question},
        ],
        "reference": "card_arrival",
        "answers": {
            "base": answered("I am sorry to hear that. " * 12, False),
            "few_shot": answered("card_arrival", True),
            "candidate": answered("lost_card", False),
            "champion": answered("card_arrival", True),
        },
    }


ANSWERS = {
    "evaluation_id": ONE,
    "split": "test",
    "kept": KEPT,
    "answers": [row(n) for n in range(3)]
    + [row(n, "improvement") for n in range(3, 15)]
    + [row(n, "same") for n in range(15, 20)],
    "has_more": True,
}


@pytest.fixture
def full(door: Door) -> Door:
    door.says |= {
        ("evaluator", "/evaluations"): {"evaluations": [SUMMARY]},
        ("evaluator", PATH): EVALUATION,
        ("evaluator", f"{PATH}/answers"): ANSWERS,
    }
    return door


def test_the_list_says_verdicts_and_exact_match(browser: Browser, full: Door) -> None:
    text = browser.sees("/evaluations?model=support")
    assert "79.0 %" in text
    assert "74.0 %" in text
    assert f'href="{PATH}"' in text
    assert 'title="insufficient"' in text
    assert "3 min 05 s" in text
    _, _, _, asked, _ = full.asked[0]
    assert asked == {"summary": "true", "limit": "50", "model": "support"}
    assert "Older" not in text


def test_a_full_page_leads_to_an_older_one(browser: Browser, full: Door) -> None:
    rows = [{**SUMMARY, "id": f"eval-{number}"} for number in range(50)]
    full.says["evaluator", "/evaluations"] = {"evaluations": rows}
    assert 'href="/evaluations?model=support&amp;after=eval-49"' in browser.sees("/evaluations?model=support")


def test_no_evaluation_yet(browser: Browser, door: Door) -> None:
    door.says["evaluator", "/evaluations"] = {"evaluations": []}
    assert "No evaluation yet" in browser.sees("/evaluations")


def test_one_evaluation_with_everything_behind_it(browser: Browser, full: Door) -> None:
    text = browser.sees(PATH)
    for said in (
        "no clear difference",  # exact match against the champion: the interval holds 0
        "better",
        "worse",  # loss rose, and the champion's rows were forgotten
        "4 held-out rows on champion_test, 10 are needed",
        "The champion's test set",
        "Regressions (3)",
        "Improvements (12)",
        "The rest (185)",
        "card_arrival",
        "1 message before",
        f'href="{PATH}?split=test&amp;after=19#answers"',
        f"driftwheel trace {ONE}",
        'href="/models/support/versions/6"',
        'href="/drift/drift-1"',
    ):
        assert said.replace("'", "&#39;") in text, said
    assert 'data-live=""' in text, "what has ended is not drawn again"


def test_only_one_kind_of_rows(browser: Browser, full: Door) -> None:
    text = browser.sees(f"{PATH}?change=improvement&after=4")
    assert full.asked[-1][3] == {"split": "test", "change": "improvement", "after": "4", "limit": "20"}
    assert f'href="{PATH}?split=test&amp;change=improvement#answers" aria-current="true"' in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "failed", "reason": "the worker died each time"}, "It failed: the worker died each time"),
        ({"state": "superseded", "reason": "the champion moved"}, "Set aside: the champion moved"),
        ({"state": "queued", "verdict": None}, "Waits for a worker"),
        ({"state": "running", "verdict": None}, "Runs since"),
        ({"state": "done", "reason": "other base"}, "No answers are kept"),
    ],
)
def test_what_was_not_measured_is_said(browser: Browser, full: Door, change: Any, said: str) -> None:
    nothing = {"scores": [], "verdicts": [], "differences": [], "answers": {}, "report": None}
    full.says["evaluator", PATH] = {**EVALUATION, **nothing, "finished_at": None, **change}
    full.says["evaluator", f"{PATH}/answers"] = 404
    text = browser.sees(PATH)
    assert said in text
    assert ('data-live="evaluator"' in text) == (change["state"] in {"queued", "running"})


def test_the_evaluator_is_away(browser: Browser, door: Door) -> None:
    door.says |= {("evaluator", "/evaluations"): None, ("evaluator", PATH): 503}
    assert "evaluator does not answer" in browser.sees("/evaluations")
    assert "evaluator does not answer" in browser.sees(PATH)


def test_only_the_store_of_answers_is_away(browser: Browser, full: Door) -> None:
    full.says["evaluator", f"{PATH}/answers"] = 503
    text = browser.sees(PATH)
    assert "What the gates say" in text
    assert 'class="part away" id="answers"' in text


def test_an_evaluation_that_is_not_there(browser: Browser) -> None:
    text = browser.sees("/evaluations/x;rm%20-rf", 404)
    assert "evaluator said 404" in text
    assert "driftwheel trace" not in text
    assert browser.sees(f"{PATH}?after=-7", 422)


def test_hostile_text_is_text(browser: Browser, full: Door) -> None:
    full.says["evaluator", f"{PATH}/answers"] = {**ANSWERS, "answers": [row(0, question=EVIL)]}
    full.says["evaluator", PATH] = {**EVALUATION, "state": "failed", "reason": EVIL}
    full.says["evaluator", "/evaluations"] = {"evaluations": [{**SUMMARY, "gates": [], "reason": EVIL}]}
    for path in (PATH, "/evaluations"):
        text = browser.sees(path)
        assert EVIL not in text
        assert "&lt;script&gt;" in text
    browser.sees(f"/evaluations?model={EVIL}")
    browser.sees(f"{PATH}?split={EVIL}&change={EVIL}")
    browser.sees("/evaluations/..%2F..%2Fmodels", 404)
    assert full.asked[-1][2].startswith("/evaluations/")


def test_without_the_scope_there_is_no_page(browser: Browser) -> None:
    browser.signs_in("model:read")
    assert "eval:read" in browser.sees("/evaluations", 403)


def test_losses_are_drawn_on_a_scale_that_holds_them() -> None:
    exact, loss = metrics(EVALUATION, "test")
    assert (exact["scale"], loss["scale"]) == (1, pytest.approx(4.51))
    assert [one["subject"] for one in exact["scores"]] == ["candidate", "champion", "few_shot", "base"]
    assert (exact["higher_is_better"], loss["higher_is_better"]) == (True, False)
    assert metrics({}, "test") == []


@pytest.mark.parametrize(
    ("low", "value", "high", "rising", "says"),
    [
        (0.1, 0.2, 0.3, True, "better"),
        (0.1, 0.2, 0.3, False, "worse"),
        (-0.3, -0.2, -0.1, False, "better"),
        (-0.1, 0.2, 0.3, True, "no clear difference"),
        (0.0, 0.0, 0.0, True, "no clear difference"),
    ],
)
def test_what_a_difference_says(low: float, value: float, high: float, rising: bool, says: str) -> None:
    assert verdict(gap("champion", low, value, high, higher_is_better=rising))["says"] == says
