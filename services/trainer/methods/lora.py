"""LoRA by peft on transformers: the base is frozen in `dtype`, the adapter's weights are float32.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.trainer.domain import TrainingFailed
from services.trainer.examples import Pack
from shared.contracts.policy import Recipe

if TYPE_CHECKING:
    from torch import Tensor


def build(base: Path, recipe: Recipe, dtype: str) -> "Lora":
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
    )
    try:
        return Lora(get_peft_model(model, config))
    except ValueError as error:
        raise TrainingFailed(
            f"the base model has no modules {', '.join(recipe.targets)} to adapt.",
            "Set recipe.targets to names of linear layers of this base, such as q_proj.",
        ) from error


class Lora:
    def __init__(self, model: Any) -> None:
        self._model = model
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.tensors: dict[str, Tensor] = {name.replace(".default.", "."): p for name, p in named}

    def train(self, on: bool) -> None:
        self._model.train(on)

    def loss(self, pack: Pack) -> "Tensor":
        """Logits are computed for the label positions alone: with a large vocabulary they cost more than the layers."""
        import torch
        from torch.nn.functional import cross_entropy

        logits = self._model(
            input_ids=torch.tensor([pack.tokens]),
            position_ids=torch.tensor([pack.positions]),
            attention_mask=visible(torch.tensor(pack.segments)),
            logits_to_keep=torch.tensor(pack.predictors),
            use_cache=False,
        ).logits[0]
        return cross_entropy(logits.float(), torch.tensor(pack.targets), reduction="sum")


def visible(segments: "Tensor") -> "Tensor":
    """Who sees whom in a pack: mask [1, 1, T, T], true where query (row) may look at key (column)."""
    import torch

    order = torch.arange(len(segments))
    causal = order[:, None] >= order[None, :]
    return (causal & ((segments[None, :] == 0) | (segments[:, None] == segments[None, :])))[None, None]
