"""The example's rows are what the story needs: valid, apart from each other, and small."""

import json
from pathlib import Path

import yaml

from services.data.formats import detect
from services.data.rows import Turn, marks
from shared.contracts.policy import Policy

FOLDER = Path(__file__).parents[3] / "examples" / "support"
FILES = ("before", "traffic_before", "traffic_after", "held_out_after")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_no_prompt_occurs_twice_in_any_of_the_files() -> None:
    everything = [row for name in FILES for row in rows(name)]
    assert all(detect(row) == "prompt-completion" for row in everything)
    prompts = {marks([Turn("user", row["prompt"]), Turn("assistant", "")]).prompt for row in everything}
    assert len(prompts) == len(everything)


def test_the_shift_brings_only_new_intents_and_the_held_out_rows_have_all() -> None:
    before, after, held_out = (
        {row["completion"] for row in rows(name)} for name in FILES if name != "traffic_before"
    )
    assert not before & after
    assert held_out == before | after
    assert {row["completion"] for row in rows("traffic_before")} == before


def test_there_are_enough_rows_for_the_declared_policy() -> None:
    policy = Policy.model_validate(yaml.safe_load((FOLDER / "policy.yaml").read_text(encoding="utf-8")))
    assert len(rows("before")) >= policy.data.min_rows
    assert len(rows("traffic_after")) >= policy.retrain.min_corrected


def test_the_folder_stays_small_and_carries_the_licence() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*") if path.is_file()) < 300_000
    assert "Attribution 3.0 Unported" in (FOLDER / "LICENSE-CLINC150").read_text(encoding="utf-8")
    assert "EMNLP-IJCNLP 2019" in (FOLDER / "README.md").read_text(encoding="utf-8")
