"""Models, one model, and one version with where it came from; rolling back."""

from typing import Any

import pytest

from services.console.lineage import lineage
from services.console.pages.models import changes
from services.console.upstream import Answer
from tests.unit.console.pages.conftest import Browser, Door
from tests.unit.console.pages.test_evaluations import EVALUATION, EVIL, score

WHEN = "2026-11-25T01:00:00Z"
COST = {"device_seconds": 61.5, "tokens": 120_000, "amount": 0.0017, "currency": "EUR"}
MODEL: dict[str, Any] = {
    "name": "support",
    "revision": 2,
    "versions": 7,
    "sequence": 21,
    "aliases": {"champion": 7, "challenger": None},
    "changed_at": WHEN,
}
VERSION: dict[str, Any] = {
    "model": "support",
    "number": 7,
    "state": "approved",
    "aliases": ["champion"],
    "engine_name": "support-v7-aaaaaaaa",
    "run_id": EVALUATION["run_id"],
    "adapter_digest": "a" * 64,
    "base_digest": "b" * 64,
    "dataset_digest": "d" * 64,
    "recipe": {"method": "lora", "rank": 16, "targets": ["q_proj", "v_proj"]},
    "code": "driftwheel 0.1.0",
    "cost": COST,
    "drift_id": "drift-1",
    "trained_at": WHEN,
    "evaluation_id": EVALUATION["id"],
    "evidence": EVALUATION["report"],
    "compared_with": 6,
    "scores": EVALUATION["scores"],
    "verdicts": [{"gate": "floor", "verdict": "pass", "value": 0.79, "bar": 0.5, "reason": "enough"}],
    "reasons": [],
    "remedy": "",
    "decided_at": WHEN,
}
_DETAILS = ("base_digest", "recipe", "code", "evidence", "scores", "verdicts", "reasons", "remedy")
SUMMARY = {
    **{name: value for name, value in VERSION.items() if name not in _DETAILS},
    "quality": score("candidate", 0.79),
    "reason": None,
}
EVENT = {
    "sequence": 21,
    "alias": "champion",
    "version": 7,
    "rollback": False,
    "actor": "serving",
    "reason": "completed",
    "evidence": {},
    "at": WHEN,
}
GATES = [{"name": "floor", "metric": "exact_match", "at_least": 0.5}]
POLICY: dict[str, Any] = {
    "model": "support",
    "revision": 2,
    "policy": {"model": "support", "recipe": {"rank": 16}, "gates": GATES},
    "actor": "ann",
    "declared_at": WHEN,
    "changed": False,
}
REVISIONS = [{"revision": number, "actor": "ann", "declared_at": WHEN} for number in (2, 1)]
PERIODS = [
    {
        "sequence": 21,
        "alias": "champion",
        "since": WHEN,
        "until": None,
        "actor": "serving",
        "reason": "completed",
        "rollback": False,
    }
]
ROLLOUTS = [
    {
        "id": "0b" * 18,
        "state": "completed",
        "step": 3,
        "weight": 100,
        "reason": "every step passed",
        "changed_at": WHEN,
    }
]
BUILD = {
    "digest": "d" * 64,
    "state": "ready",
    "why": "drift",
    "rows": {"train": 1_200, "validation": 100, "test": 200},
    "finished_at": WHEN,
}
RUN = {"state": "succeeded", "validation_loss": 0.421, "finished_at": WHEN}
HERE = "/models/support/versions/7"


@pytest.fixture
def full(door: Door) -> Door:
    door.says |= {
        ("registry", "/models"): {"models": [MODEL]},
        ("registry", "/models/support"): MODEL,
        ("registry", "/models/support/versions"): {"versions": [SUMMARY]},
        ("registry", "/models/support/aliases"): {
            "model": "support",
            "at": None,
            "aliases": {"champion": 7, "challenger": None},
            "events": [EVENT],
        },
        ("registry", "/models/support/rollback"): {"model": "support", "champion": 7, "target": 6},
        ("registry", "/policies/support"): POLICY,
        ("registry", "/policies/support/revisions"): {"revisions": REVISIONS},
        ("registry", HERE): VERSION,
        ("registry", f"{HERE}/traffic"): {"periods": PERIODS, "rollouts": ROLLOUTS},
        ("registry", f"{HERE}/card"): {
            "adapter_digest": "a" * 64,
            "text": f"---\nbase_model: x\n---\n# {EVIL}",
        },
        ("data", f"/datasets/{'d' * 64}"): BUILD,
        ("trainer", f"/runs/{EVALUATION['run_id']}"): RUN,
        ("evaluator", f"/evaluations/{EVALUATION['id']}"): EVALUATION,
    }
    return door


def test_the_list(browser: Browser, full: Door) -> None:
    text = browser.sees("/models")
    assert f'href="{HERE}"' in text
    assert "More models" not in text
    full.says["registry", "/models"] = {"models": [{**MODEL, "name": f"m{n:02}"} for n in range(50)]}
    assert 'href="/models?after=m49"' in browser.sees("/models")
    full.says["registry", "/models"] = {"models": []}
    assert "driftwheel apply" in browser.sees("/models")


def test_one_model(browser: Browser, full: Door) -> None:
    text = browser.sees("/models/support")
    for said in (
        "support:7",
        "79.0 %",
        "Policy, revision 2 (in force)",
        "at_least: 0.5",
        "serving",
        "completed",
    ):
        assert said in text, said
    full.says["registry", "/models/support/versions"] = {"versions": [SUMMARY] * 50}
    assert f"state=approved&amp;after={'a' * 64}" in browser.sees("/models/support?state=approved")
    assert any(asked.get("state") == "approved" and asked["summary"] == "true" for *_, asked, _ in full.asked)


def test_who_was_champion_at_a_time(browser: Browser, full: Door) -> None:
    text = browser.sees("/models/support?at=2026-11-25T14:03")
    assert "At 2026-11-25 14:03:00 UTC: champion" in text
    assert any(asked.get("at") == "2026-11-25T14:03:00+00:00" for *_, asked, _ in full.asked)
    assert "That is no time" in browser.sees("/models/support?at=yesterday")


def test_a_rollback_asks_first_and_names_both_versions(browser: Browser, full: Door) -> None:
    text = browser.sees("/models/support")
    assert "Version 6 becomes champion at once" in text
    assert 'name="expected_champion" value="7"' in text
    answer = browser.sends("/models/support/rollback", reason="wrong refunds", to="6", expected_champion="7")
    assert answer.status_code == 303
    method, _, path, _, body = full.asked[-1]
    assert (method, path) == ("POST", "/models/support/rollback")
    assert body == {"reason": "wrong refunds", "to": 6, "expected_champion": 7}
    full.says["registry", "/models/support/rollback"] = 409
    refused = browser.sends("/models/support/rollback", reason="x", to="6")
    assert "Not%20rolled%20back.%20registry%20said%20409" in refused.headers["location"]


def test_who_may_not_write_has_no_button(browser: Browser, full: Door) -> None:
    browser.signs_in("model:read", "monitor:read")
    for path in ("/models/support", HERE):
        assert "becomes champion at once" not in browser.sees(path)
    assert browser.sends("/models/support/rollback", reason="x").status_code == 403
    foreign = browser.http.post(
        "/models/support/rollback", data={"reason": "x"}, headers={"origin": "http://e.example"}
    )
    assert foreign.status_code == 403


def test_a_version_with_its_lineage(browser: Browser, full: Door) -> None:
    text = browser.sees(HERE)
    for said in (
        "1,200 rows",
        "loss 0.421",
        "exact match 79.0 % (71.1 to 86.9)",
        "1 of 1 passed",
        "100 % of traffic",
        "champion since 2026-11-25 01:00:00 UTC",
        f"adapters/sha256/{'a' * 64}/",
        "q_proj, v_proj",
        "# &lt;script&gt;",
    ):
        assert said in text, said
    assert EVIL not in text


@pytest.mark.parametrize("away", ["data", "trainer", "evaluator"])
def test_one_step_of_the_lineage_is_away(browser: Browser, full: Door, away: str) -> None:
    for service, path in list(full.says):
        if service == away:
            full.says[service, path] = None
    text = browser.sees(HERE)
    assert text.count('class="unsure"') == 1
    assert f"{away} does not answer" in text
    assert "exact match 79.0 %" in text, "what the registry knows stays"


def test_the_registry_is_away_or_knows_nothing(browser: Browser, door: Door) -> None:
    for path in ("/models", "/models/support", HERE):
        browser.sees(path, 200 if path == "/models" else 404)
        door.says[("registry", path)] = None
        assert "registry does not answer" in browser.sees(path)
    assert browser.sees("/models/support/versions/0", 422)


def test_a_rejection_says_why_and_what_may_help(browser: Browser, full: Door) -> None:
    full.says["registry", HERE] = {
        **VERSION,
        "state": "rejected",
        "aliases": [],
        "reasons": [EVIL],
        "remedy": "Correct the rows.",
    }
    full.says["registry", f"{HERE}/traffic"] = {"periods": [], "rollouts": []}
    text = browser.sees(HERE)
    assert "Why it was rejected" in text
    assert "Correct the rows." in text
    assert "never rolled out" in text
    assert EVIL not in text


def test_a_version_that_was_champion_once() -> None:
    answers = {name: Answer("x", 200, {}) for name in ("data", "run", "evaluation")}
    ended = {**PERIODS[0], "until": "2026-11-26T01:00:00Z"}
    answers["traffic"] = Answer("registry", 200, {"periods": [ended], "rollouts": ROLLOUTS})
    step = lineage({**VERSION, "aliases": [], "state": "rolled_back"}, answers)[-1]
    assert (step.state, step.key) == ("rolled_back", "none now")
    assert step.note == "champion until 2026-11-26 01:00:00 UTC"
    running = {**ROLLOUTS[0], "state": "advanced", "weight": 25}
    answers["traffic"] = Answer("registry", 200, {"periods": [], "rollouts": [running]})
    assert lineage({**VERSION, "aliases": ["challenger"]}, answers)[-1].key == "25 % of traffic"


def test_what_a_revision_changed() -> None:
    new = {"rank": 32, "gates": [{"name": "new", "at_least": 1}, *GATES]}
    assert changes({"rank": 16, "gates": GATES, "old": [1]}, new) == [
        ("rank", "16", "32"),
        ("gates.new.name", "–", "new"),
        ("gates.new.at_least", "–", "1"),
        ("old", "[1]", "–"),
    ]
    assert changes(new, new) == []


def test_who_may_see_one_model_sees_the_page_that_the_services_answer(browser: Browser, door: Door) -> None:
    """The page shows what the services answer to that token; the pages about the platform stay closed."""
    door.says["registry", "/models"] = {"models": []}
    browser.signs_in("model:read:support", "monitor:read:support")
    browser.sees("/models")
    for path in ("/events", "/dead-letters", "/"):
        browser.sees(path, 403)
