"""`driftwheel evaluations | files | policy` and `runs compare`: what existed on pages, in the terminal."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.console.commands.policies import flat
from services.console.commands.runs import differences
from services.console.door import Exit
from shared.contracts.policy import Policy
from tests.unit.console.conftest import Command, Door
from tests.unit.console.test_commands import RUN, SCORE, VERSION

ROOT = Path(__file__).parents[3]
OTHER = "run-0193a1b2-7c3d-7e4f-8a9b-0c1d2e3f4a5b"
EVALUATION = {
    "id": "eval-0193a1b27c3d7e4f8a9b0c1d",
    "model": "support",
    "run_id": "run-1",
    "adapter_digest": "a" * 64,
    "dataset_digest": "d" * 64,
    "champion_version": 6,
    "drift_id": None,
    "state": "succeeded",
    "reason": "",
    "verdict": "approved",
    "gates": [{"gate": "floor", "verdict": "pass"}],
    "candidate": SCORE,
    "champion": {**SCORE, "subject": "champion", "value": 0.7},
    "created_at": "2026-01-01T12:00:00+00:00",
    "started_at": None,
    "finished_at": "2026-01-01T12:05:00+00:00",
    "scores": [SCORE],
    "verdicts": VERSION["verdicts"],
}
FILE = {
    "id": "file-0193a1b27c3d7e4f8a9b0c1d",
    "object": "file",
    "bytes": 1_234_567,
    "created_at": 1_767_268_800,
    "filename": "before.jsonl",
    "purpose": "fine-tune",
    "status": "processed",
}
POLICY = {
    "model": "support",
    "revision": 2,
    "actor": "ann",
    "declared_at": "2026-01-01T12:00:00+00:00",
    "policy": Policy(model="support", description="Names the intent.").model_dump(mode="json"),
}
COMPARED = [
    {**RUN, "recipe": {"rank": 16, "targets": ["q_proj"]}, "best": {"step": 50, "validation_loss": 0.19}},
    {**RUN, "id": OTHER, "recipe": {"rank": 8, "targets": ["q_proj"]}, "best": None},
]


def more_answers() -> dict[tuple[str, str], Any]:
    return {
        ("GET", "/api/evaluator/evaluations"): {"evaluations": [EVALUATION]},
        ("GET", "/api/evaluator/evaluations/eval-1"): EVALUATION,
        ("GET", "/v1/files"): {"data": [FILE]},
        ("GET", "/v1/files/file-1"): FILE,
        ("GET", "/api/registry/policies"): {"policies": [POLICY]},
        ("GET", "/api/registry/policies/support"): POLICY,
        ("GET", "/api/trainer/runs/comparison"): {"runs": COMPARED},
    }


@pytest.fixture
def ask(driftwheel: Command, door: Door, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(ROOT)
    door.answers.update(more_answers())
    return driftwheel


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("evaluations", "list"), ("eval-0193a1b27c3d7e4f8a9b0c1d", "approved", "79 % [70 %, 86 %]")),
        (("evaluations", "show", "eval-1"), ("0.79 >= 0.5", "exact_match", "floor")),
        (("files", "list"), ("file-0193a1b27c3d7e4f8a9b0c1d", "before.jsonl", "1.2 MB")),
        (("files", "show", "file-1"), ("1,234,567 bytes", "2026-01-01 12:00:00 UTC")),
        (("policy", "list"), ("support", "ann", "Names the intent.")),
        (("policy", "schema"), ("recipe.rank", "LoRA rank", "gates[].metric")),
        (("policy", "diff", "support", "examples/support/policy.yaml"), ("recipe.max_length", "256", "128")),
        (("runs", "compare", "run-1", OTHER), (OTHER, "79 % [70 %, 86 %]", "dddddddddddd", "rank")),
    ],
    ids=lambda part: " ".join(part[:2]),
)
def test_what_is_shown(ask: Command, command: tuple[str, ...], shown: tuple[str, ...]) -> None:
    told = ask(*command)
    assert told.exit_code == Exit.OK, told.output
    for text in shown:
        assert text in told.stdout, text
    json.loads(ask(*command, "--json").stdout)


@pytest.mark.parametrize(
    ("command", "path", "empty", "hint"),
    [
        (("evaluations", "list"), "/api/evaluator/evaluations", {"evaluations": []}, "driftwheel runs list"),
        (("files", "list"), "/v1/files", {"data": []}, "driftwheel datasets upload"),
        (("policy", "list"), "/api/registry/policies", {"policies": []}, "driftwheel apply"),
    ],
)
def test_an_empty_list_says_the_next_step(
    driftwheel: Command, door: Door, command: tuple[str, ...], path: str, empty: Any, hint: str
) -> None:
    door.answers["GET", path] = empty
    assert hint in driftwheel(*command).stdout


def test_a_shown_policy_can_be_declared_again(ask: Command, tmp_path: Path) -> None:
    shown = ask("policy", "show", "support").stdout
    assert Policy.model_validate(yaml.safe_load(shown)) == Policy.model_validate(POLICY["policy"])
    file = tmp_path / "policy.yaml"
    file.write_text(shown)
    assert ask("policy", "validate", str(file)).exit_code == Exit.OK
    assert "declared so already" in ask("policy", "diff", "support", str(file)).stdout


def test_every_mistake_of_a_policy_is_said(nowhere: Command, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("model: support\nrecipe: {rank: 0, rnak: 8, epochs: -1}\ndrift: {min_score: 7}\n")
    told = nowhere("policy", "validate", str(file), "--json")
    assert told.exit_code == Exit.USAGE
    places = {one["where"] for one in json.loads(told.stdout)}
    assert places == {"recipe.rank", "recipe.rnak", "recipe.epochs", "drift.min_score"}
    refused = nowhere("policy", "diff", "support", str(file))
    assert refused.exit_code == Exit.USAGE
    assert "driftwheel policy validate" in refused.stderr


def test_a_run_that_is_not_there_is_named(ask: Command) -> None:
    told = ask("runs", "compare", "run-1", "run-2")
    assert told.exit_code == Exit.NOT_FOUND
    assert "run-2" in told.stderr


def test_only_what_differs_is_compared() -> None:
    assert differences([{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1}]) == [("b", 2, 3, None)]
    assert differences([{"a": 1}]) == []


def test_a_document_is_flat_by_its_paths() -> None:
    document = {"a": {"b": 1, "c": [1, 2]}, "gates": [{"name": "floor", "at_least": 0.5}], "none": []}
    assert flat(document) == {
        "a.b": 1,
        "a.c": "1, 2",
        "gates.floor.name": "floor",
        "gates.floor.at_least": 0.5,
        "none": "",
    }
