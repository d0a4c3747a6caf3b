"""The model card and the adapter's configuration."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from services.trainer.domain import Run
from services.trainer.publish import Base, Trained, adapter_config, files, meta
from services.trainer.wishes import recipe_hash
from shared.contracts.policy import Recipe

RECIPE = Recipe(rank=8, alpha=16)
BASE = Base("HuggingFaceTB/SmolLM2-135M-Instruct", "b" * 64, "apache-2.0")
TRAINED = Trained(
    best_step=20,
    steps=30,
    total_steps=40,
    best_loss=0.25,
    curve=[{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 31)],
    tokens=40_000,
    rows=480,
    too_long=2,
    template="{{ messages }}",
    template_sha256="c" * 64,
)


def run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "id": "run-1",
        "model": "support",
        "dataset_digest": "d" * 64,
        "recipe_hash": recipe_hash(RECIPE),
        "base_digest": BASE.digest,
        "recipe": RECIPE.model_dump(mode="json"),
        "why": "drift",
        "drift_id": "drift-1",
        "budget": 1.0,
        "device_hour": 0.1,
        "currency": "EUR",
        "created_by": "test",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return Run(**values | changes)


def test_the_card_says_where_the_adapter_comes_from() -> None:
    text = files(run(), RECIPE, BASE, TRAINED, b"")["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["base_model"] == BASE.name
    assert matter["datasets"] == ["sha256:" + "d" * 64]
    assert (matter["library_name"], matter["license"]) == ("peft", "apache-2.0")
    for fact in (
        BASE.digest,
        "d" * 64,
        recipe_hash(RECIPE),
        "drift-1",
        "30 of 40 steps",
        "early",
        "step 20",
        "0.2500",
    ):
        assert fact in body


@pytest.mark.parametrize("name", ['evil: "\n---\nx', "a: b", "{{ x }}"])
def test_the_name_of_a_base_cannot_break_the_front_matter(name: str) -> None:
    base = Base(name, BASE.digest, "other")
    text = files(run(), RECIPE, base, TRAINED, b"")["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == name


def test_two_attempts_of_a_run_publish_the_same_bytes() -> None:
    slow = run(attempt=5, device_seconds=900.0, started_at=datetime(2026, 2, 2, tzinfo=UTC), fruitless=1)
    assert files(run(), RECIPE, BASE, TRAINED, b"w") == files(slow, RECIPE, BASE, TRAINED, b"w")
    assert meta(run(), RECIPE, BASE, TRAINED) == meta(slow, RECIPE, BASE, TRAINED)


def test_the_configuration_names_no_machine_and_has_what_shapes_an_answer() -> None:
    config = adapter_config(RECIPE, BASE)
    assert config["base_model_name_or_path"] == BASE.name
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (8, 16, list(RECIPE.targets))
    json.dumps(config, allow_nan=False)
