"""An adapter as others find it: PEFT's two files, the chat template it was trained with, and a model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.trainer.corpus import Corpus
from services.trainer.domain import Run, thin
from shared.contracts.policy import Recipe
from shared.contracts.text import Json

if TYPE_CHECKING:
    from services.trainer.loop import Training

CURVE_ROWS = 12


@dataclass(frozen=True, slots=True)
class Base:
    """What is said of the base model. `license` is an SPDX id in lower case, `other` if unknown."""

    name: str
    digest: str
    license: str


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run made, apart from the weights."""

    best_step: int
    steps: int
    total_steps: int
    best_loss: float | None
    curve: list[Json]
    tokens: int
    rows: int
    too_long: int
    template: str
    template_sha256: str

    @classmethod
    def of(cls, training: "Training", rows: Corpus) -> "Trained":
        return cls(
            best_step=training.best.step or training.step,
            steps=training.step,
            total_steps=training.total,
            best_loss=training.best.loss,
            curve=training.curve,
            tokens=training.tokens,
            rows=len(rows.train),
            too_long=rows.too_long,
            template=rows.template,
            template_sha256=rows.template_sha256,
        )


def describe_base(folder: Path, name: str, digest: str) -> Base:
    """Read name and licence from the base model's own manifest, if it has one."""
    file = folder / "manifest.json"
    source: Mapping[str, Any] = {}
    if file.is_file():
        source = json.loads(file.read_text(encoding="utf-8")).get("source", {})
    return Base(str(source.get("model", name)), digest, str(source.get("licence", "other")).lower())


def files(run: Run, recipe: Recipe, base: Base, trained: Trained, weights: bytes) -> dict[str, bytes]:
    """The same run gives the same bytes: what differs between two attempts (time, cost) is kept in the run's record."""
    return {
        "adapter_config.json": _json(adapter_config(recipe, base)),
        "adapter_model.safetensors": weights,
        "chat_template.jinja": trained.template.encode(),
        "README.md": card(run, recipe, base, trained).encode(),
    }


def meta(run: Run, recipe: Recipe, base: Base, trained: Trained) -> Json:
    return {
        "kind": "adapter",
        "model": run.model,
        "run": run.id,
        "base": base.name,
        "base_digest": run.base_digest,
        "dataset_digest": run.dataset_digest,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": run.recipe_hash,
        "rank": recipe.rank,
        "dtype": run.dtype,
        "code": code_version(),
        "chat_template_sha256": trained.template_sha256,
    }


def code_version() -> str:
    try:
        return f"driftwheel {version('driftwheel')}"
    except PackageNotFoundError:
        return "driftwheel, not installed"


def adapter_config(recipe: Recipe, base: Base) -> Json:
    """PEFT's LoRA configuration with everything that shapes an answer; what is missing has PEFT's default."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "inference_mode": True,
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": list(recipe.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _json(document: Json) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def card(run: Run, recipe: Recipe, base: Base, trained: Trained) -> str:
    """A model card as the Hugging Face hub reads it: YAML front matter, then Markdown. Values are ids and numbers only."""
    rows = "\n".join(
        f"| {point['step']} | {_number(point.get('loss'))} | {_number(point.get('validation_loss'))} |"
        for point in thin(trained.curve, CURVE_ROWS)
    )
    ending = (
        "as planned" if trained.steps == trained.total_steps else "early: the validation loss no longer fell"
    )
    return f"""---
base_model: {json.dumps(base.name)}
datasets:
- sha256:{run.dataset_digest}
library_name: peft
license: {json.dumps(base.license)}
pipeline_tag: text-generation
tags:
- driftwheel
- lora
---

# {run.model}, run {run.id}

A LoRA adapter (rank {recipe.rank}, alpha {recipe.alpha}) of {base.name}, trained by Driftwheel.

## Lineage

| What | Which |
|---|---|
| base model | sha256 {run.base_digest} |
| dataset | sha256 {run.dataset_digest} |
| recipe | sha256 {run.recipe_hash} |
| chat template | sha256 {trained.template_sha256} |
| code | {code_version()} |
| asked for by | {run.why}{f", drift {run.drift_id}" if run.drift_id else ""} |

## Training

{trained.steps} of {trained.total_steps} steps, ended {ending}; the weights are those of step {trained.best_step}
(validation loss {_number(trained.best_loss)} nats per answer token).
{trained.tokens} tokens of {trained.rows} rows; {trained.too_long} rows were longer than {recipe.max_length} tokens and left out.
The measured cost is in the record of the run: `driftwheel runs show {run.id}`.

| step | loss | validation loss |
|---|---|---|
{rows}

## Recipe

```json
{json.dumps(recipe.model_dump(mode="json"), indent=2, sort_keys=True)}
```
"""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
