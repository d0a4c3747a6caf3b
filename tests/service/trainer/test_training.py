"""One run in this process: what it publishes, what it announces, and how it fails."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from services.trainer import corpus, job
from services.trainer.chat import Chat
from services.trainer.checkpoints import Checkpoints
from services.trainer.domain import ADAPTERS, DATASETS, TrainingFailed
from services.trainer.examples import Pack, pack
from services.trainer.job import Trainer
from services.trainer.loop import Training, fastest_dtype
from services.trainer.methods import METHODS
from shared.artifacts.objects import ObjectStore, fetch, read_manifest
from shared.contracts.errors import Superseded, Unavailable
from shared.contracts.policy import Budget, Recipe
from shared.service.clock import SystemClock
from tests.service.trainer.conftest import TINY, World, cause, ready

LORA = TINY.model_copy(update={"method": "lora", "learning_rate": 0.02})


async def train(world: World, run_id: str, objects: ObjectStore | None = None, **settings: Any) -> None:
    trainer = Trainer(objects or world.objects, world.settings.model_copy(update=settings), SystemClock())
    await trainer.run(await world.attempt(run_id), run_id)


async def loaded(world: World, recipe: Recipe, tmp_path: Path) -> corpus.Corpus:
    manifest = await fetch(world.objects, DATASETS, await world.dataset(), tmp_path)
    return corpus.load(tmp_path, manifest, Chat(world.settings.base_model), recipe.max_length)


async def test_a_lora_is_trained_published_and_announced_once(world: World, tmp_path: Path) -> None:
    run_id = await world.queued(LORA)
    await train(world, run_id)
    run = await world.run(run_id)
    assert (run.state, run.step, run.total_steps, run.reason) == ("succeeded", 12, 12, "")
    assert run.curve[-1]["validation_loss"] < run.curve[0]["loss"]
    assert run.tokens > 48 * 2 * 20
    assert run.device_seconds > 0
    (trained,) = await world.sent("model.trained")
    assert trained["adapter_digest"] == run.adapter_digest
    assert trained["cost"]["tokens"] == run.tokens
    assert [point["step"] for point in trained["curves"]] == list(range(1, 13))
    states = await world.states()
    assert states[:2] == ["accepted", "started"]
    assert set(states[2:-1]) == {"progress"}
    assert states[-1] == "succeeded"
    assert await world.checkpoints(run_id) == []
    await train(world, run_id)  # the job once more, after its end
    assert len(await world.sent("model.trained")) == 1


async def test_the_adapter_loads_into_peft_and_answers_differently(world: World, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    run_id = await world.queued(LORA)
    await train(world, run_id)
    folder = await world.adapter(run_id, tmp_path)
    names = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    base = AutoModelForCausalLM.from_pretrained(world.settings.base_model)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, folder)
        difference = (adapted(ids).logits - plain).abs().max().item()
    assert math.isfinite(difference)
    assert difference > 0.01
    saved = load_file(folder / "adapter_model.safetensors")
    own = {name.replace(".default.", ".") for name, _ in adapted.named_parameters() if "lora_" in name}
    assert set(saved) == own, "every tensor has a place in peft's model"


async def test_the_manifest_tells_the_lineage(world: World) -> None:
    run_id = await world.queued()
    await train(world, run_id)
    run = await world.run(run_id)
    manifest = await read_manifest(world.objects, ADAPTERS, str(run.adapter_digest))
    template = hashlib.sha256((world.settings.base_model / "chat_template.jinja").read_bytes()).hexdigest()
    assert manifest.meta["run"] == run_id
    assert manifest.meta["base_digest"] == run.base_digest
    assert manifest.meta["dataset_digest"] == run.dataset_digest
    assert manifest.meta["recipe"] == run.recipe
    assert manifest.meta["chat_template_sha256"] == template
    assert manifest.files["chat_template.jinja"]["sha256"] == template
    assert (manifest.meta["rank"], manifest.meta["dtype"]) == (4, "float32")


async def test_a_rehearsal_makes_an_adapter_that_peft_loads(world: World, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run_id = await world.queued(TINY)
    await train(world, run_id)
    base = AutoModelForCausalLM.from_pretrained(world.settings.base_model)
    PeftModel.from_pretrained(base, await world.adapter(run_id, tmp_path))


async def test_packed_rows_give_the_loss_and_gradient_of_separate_ones(world: World, tmp_path: Path) -> None:
    """The point of packing: it changes the cost of a step and nothing else."""
    import torch

    rows = (await loaded(world, LORA, tmp_path)).train[:12]
    torch.manual_seed(0)
    lora = METHODS["lora"](world.settings.base_model, LORA, "float32")
    for tensor in lora.tensors.values():
        torch.nn.init.normal_(tensor, std=0.3)

    def gradients(packs: list[Pack]) -> tuple[float, list[torch.Tensor]]:
        losses = [lora.loss(one) for one in packs]
        total = torch.stack(losses).sum()
        found = torch.autograd.grad(total, list(lora.tensors.values()))
        return total.item(), list(found)

    apart = gradients([one for row in rows for one in pack([row], 10_000)])
    together = list(pack(rows, 10_000))
    assert len(together) == 1
    assert len(together[0].tokens) < sum(len(row.tokens) for row in rows) * 0.7
    joined = gradients(together)
    assert joined[0] == pytest.approx(apart[0], rel=1e-5)
    for one, other in zip(joined[1], apart[1], strict=True):
        assert (one - other).norm() < 1e-4 * other.norm()


async def test_the_prompt_of_training_is_the_prompt_of_the_engine(world: World, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    chat, tokenizer = (
        Chat(world.settings.base_model),
        AutoTokenizer.from_pretrained(world.settings.base_model),
    )
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Wie geht’s? 12345"},
        {"role": "assistant", "content": "Gut."},
        {"role": "user", "content": "  spaces\n\nand <|im_end|> "},
    ]
    for messages in (turns, turns[1:2]):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert chat.render(messages, add_generation_prompt=True) == text
        assert chat.encode(text) == tokenizer(text, add_special_tokens=False).input_ids
    assert (chat.eos_id, chat.template) == (tokenizer.eos_token_id, tokenizer.chat_template)


async def test_two_runs_of_the_same_training_give_the_same_bytes(world: World, tmp_path: Path) -> None:
    recipe = LORA.model_copy(update={"dropout": 0.2, "epochs": 1.0})
    rows = await loaded(world, recipe, tmp_path)

    def finished() -> bytes:
        training = Training.start(world.settings.base_model, rows, recipe, "float32", 512)
        while not training.done:
            training.advance()
        return training.adapter()

    assert finished() == finished()


async def test_it_stops_early_and_keeps_the_best(world: World, tmp_path: Path) -> None:
    """With a rate far too high the validation loss is best early on; patience 2 then ends the run."""
    recipe = LORA.model_copy(
        update={"learning_rate": 1.0, "evaluate_every": 1, "patience": 2, "epochs": 20.0, "warmup_share": 0.0}
    )
    training = Training.start(
        world.settings.base_model, await loaded(world, recipe, tmp_path), recipe, "float32", 512
    )
    adapters = {}
    while not training.done:
        training.advance()
        adapters[training.step] = training.adapter()
    assert training.stopped_early
    assert training.step == training.best.step + 2
    losses = {point["step"]: point["validation_loss"] for point in training.curve}
    assert training.best.step == min(losses, key=lambda step: losses[step])
    assert training.adapter() == adapters[training.best.step]


async def test_a_learning_rate_beyond_reason_ends_with_its_reason(world: World, tmp_path: Path) -> None:
    recipe = LORA.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})
    training = Training.start(
        world.settings.base_model, await loaded(world, recipe, tmp_path), recipe, "float32", 512
    )
    with pytest.raises(TrainingFailed, match=r"diverged at step \d+"):
        while not training.done:
            training.advance()


async def test_weights_that_are_not_finite_are_never_published(world: World, tmp_path: Path) -> None:
    training = Training.start(
        world.settings.base_model, await loaded(world, TINY, tmp_path), TINY, "float32", 512
    )
    next(iter(training._weights.values())).data[0, 0] = math.inf
    with pytest.raises(TrainingFailed, match="not finite"):
        training.adapter()


class Broken:
    """A method whose losses are what the test says."""

    def __init__(self, losses: list[float]) -> None:
        import torch

        self._losses = losses
        self._one = torch.zeros(1, requires_grad=True)
        self.tensors = {"base_model.model.x.lora_A.weight": self._one}

    def train(self, on: bool) -> None: ...

    def loss(self, one: Pack) -> Any:
        value = self._losses.pop(0) if len(self._losses) > 1 else self._losses[0]
        return self._one.sum() + value * len(one.targets)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([1.0, math.nan], "diverged at step 2: the loss is nan"),
        ([1.0, math.inf], "diverged at step 2: the loss is inf"),
        ([1.0, 4.0], "diverged at step 4: the loss is 4, 3 steps in a row above 3 times the first (1)"),
    ],
)
async def test_a_run_that_diverges_fails_with_its_reason(
    world: World, monkeypatch: pytest.MonkeyPatch, losses: list[float], reason: str
) -> None:
    monkeypatch.setitem(METHODS, "rehearsal", lambda *_: Broken([*losses]))
    run_id = await world.queued(TINY.model_copy(update={"evaluate_every": 100}))
    await train(world, run_id)
    run = await world.run(run_id)
    assert (run.state, run.adapter_digest) == ("failed", None)
    assert run.reason.startswith(reason)
    assert "learning_rate" in run.reason
    assert (await world.states())[-1] == "failed"
    assert await world.sent("model.trained") == []
    assert await world.checkpoints(run_id) == []


@pytest.mark.parametrize(
    ("meta", "counts", "recipe", "reason"),
    [
        ({"chat_template_sha256": "0" * 64}, (48, 12), {}, "another chat template"),
        ({}, (48, 12), {"max_length": 8}, "no training row is left: 48 exceed max_length 8"),
        ({"counts": {}}, (0, 12), {}, "the training split is empty"),
        ({}, (48, 12), {"targets": ("nowhere",)}, "no modules nowhere to adapt"),
        ({}, (48, 12), {"targets": ("nowhere",), "method": "lora"}, "no modules nowhere to adapt"),
    ],
)
async def test_a_run_that_cannot_be_trained_fails_before_its_first_step(
    world: World, meta: dict[str, Any], counts: tuple[int, int], recipe: dict[str, Any], reason: str
) -> None:
    await world.declare(TINY.model_copy(update=recipe))
    await world.tell(ready(await world.dataset(*counts, **meta)))
    (run,) = await world.runs()
    await train(world, run.id)
    run = await world.run(run.id)
    assert (run.state, run.step) == ("failed", 0)
    assert reason in run.reason


async def test_without_validation_rows_the_last_weights_are_kept(world: World) -> None:
    await world.declare(TINY)
    await world.tell(ready(await world.dataset(validation=0)))
    (run,) = await world.runs()
    await train(world, run.id)
    run = await world.run(run.id)
    assert (run.state, run.step, run.validation_loss) == ("succeeded", 12, None)


async def test_a_stored_recipe_that_is_no_longer_valid_fails_the_run(world: World) -> None:
    run_id = await world.queued()
    async with world.db.unit_of_work() as work:
        changed = json.dumps(TINY.model_dump(mode="json") | {"learning_rate": 1e30})
        await work.execute("UPDATE run SET recipe = CAST(:r AS jsonb)", {"r": changed})
    await train(world, run_id)
    run = await world.run(run_id)
    assert run.state == "failed"
    assert "recipe is not valid" in run.reason


async def test_another_base_than_was_accepted_fails_the_run(world: World) -> None:
    run_id = await world.queued()
    async with world.db.unit_of_work() as work:
        await work.execute("UPDATE run SET base_digest = :d", {"d": "0" * 64})
    await train(world, run_id)
    assert "base model is another one" in (await world.run(run_id)).reason


async def test_an_altered_dataset_fails_the_run(world: World) -> None:
    run_id = await world.queued()
    digest = (await world.run(run_id)).dataset_digest
    key = f"sha256/{digest}/train.jsonl"
    original = await world.datasets.get(DATASETS, key)
    await world.datasets.put(DATASETS, key, original.replace(b"red", b"RED"))
    try:
        await train(world, run_id)
    finally:
        await world.datasets.put(DATASETS, key, original)
    run = await world.run(run_id)
    assert run.state == "failed"
    assert "differs from its digest" in run.reason


async def test_the_exact_size_is_held_against_the_budget_before_the_first_step(world: World) -> None:
    run_id = await world.queued(budget=Budget(per_run=1.0, device_hour=100.0))
    await train(world, run_id, tokens_per_second=0.01)
    run = await world.run(run_id)
    assert (run.state, run.step) == ("failed", 0)
    assert "above its budget" in run.reason


async def test_a_run_stops_when_its_budget_is_spent(world: World) -> None:
    run_id = await world.queued(budget=Budget(per_run=1e-6, device_hour=0.0))
    async with world.db.unit_of_work() as work:
        await work.execute("UPDATE run SET device_hour = 1000")
    await train(world, run_id, tokens_per_second=1e12)
    run = await world.run(run_id)
    assert run.state == "failed"
    assert run.reason.startswith("budget exceeded at step 1")
    assert run.cost().amount > 1e-6


async def test_an_outage_is_tried_again_and_not_held_against_the_run(world: World) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            async def refuse(bucket: str, *args: Any) -> Any:
                if bucket == DATASETS:
                    raise Unavailable("The object store does not answer.")
                return await getattr(world.objects, name)(bucket, *args)

            return refuse

    run_id = await world.queued()
    for _ in range(5):
        with pytest.raises(Unavailable):
            await train(world, run_id, objects=Away())  # type: ignore[arg-type]
    assert (await world.run(run_id)).state == "running"
    await train(world, run_id)
    assert (await world.run(run_id)).state == "succeeded"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Trainer, "_corpus"), (Trainer, "_resume"), (Checkpoints, "save"), (job, "publish_artifact")],
)
async def test_a_run_is_cancelled_in_every_phase(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """The request comes in at the end of a phase: fetching, building, training, publishing."""
    run_id = await world.queued()
    phase = getattr(owner, name)

    async def cancelled_meanwhile(*args: Any) -> Any:
        result = await phase(*args)
        async with world.db.unit_of_work(cause()) as work:
            await world.service.cancel(work, run_id, "tester")
        return result

    monkeypatch.setattr(owner, name, cancelled_meanwhile)
    await train(world, run_id)
    run = await world.run(run_id)
    assert (run.state, run.reason, run.adapter_digest) == ("cancelled", "cancelled by tester", None)
    assert (await world.states())[-1] == "cancelled"
    assert await world.sent("model.trained") == []
    assert await world.checkpoints(run_id) == []


async def test_a_cancel_after_a_worker_died_ends_at_the_next_attempt(world: World) -> None:
    run_id = await world.queued()
    async with world.db.unit_of_work() as work:
        await work.execute("UPDATE run SET state = 'running', attempt = 1")
    async with world.db.unit_of_work(cause()) as work:
        await world.service.cancel(work, run_id, "tester")
    await train(world, run_id)
    run = await world.run(run_id)
    assert (run.state, run.step) == ("cancelled", 0)


async def test_a_superseded_attempt_changes_nothing(world: World) -> None:
    run_id = await world.queued()
    old = await world.attempt(run_id)
    await train(world, run_id)
    before = (await world.run(run_id)).model_dump(), await world.sent()
    with pytest.raises(Superseded):
        await Trainer(world.objects, world.settings, SystemClock()).run(old, run_id)
    assert ((await world.run(run_id)).model_dump(), await world.sent()) == before


async def test_the_failure_hook_of_the_kernel_ends_the_run(world: World) -> None:
    run_id = await world.queued()
    trainer = Trainer(world.objects, world.settings, SystemClock())
    await trainer.failed(await world.attempt(run_id), "RuntimeError: no memory", run_id)
    run = await world.run(run_id)
    assert (run.state, run.reason) == ("failed", "RuntimeError: no memory")


def test_the_number_format_is_one_of_two() -> None:
    assert fastest_dtype() in {"bfloat16", "float32"}


async def test_half_precision_trains_too(world: World) -> None:
    run_id = await world.queued(LORA)
    await train(world, run_id, dtype="bfloat16")
    run = await world.run(run_id)
    assert (run.state, run.dtype) == ("succeeded", "bfloat16")
    assert run.curve[-1]["validation_loss"] < run.curve[0]["loss"]
