"""A random base model, adapters for it, and small datasets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-model"
    make_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def make_adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_adapter(seed, strength)` saves a random LoRA adapter as the trainer would; same seed, same bytes."""

    def make(seed: int, strength: float = 0.5) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=strength)
        folder = tmp_path_factory.mktemp(f"adapter{seed}-")
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        return folder

    return make


def conversation(question: str, answer: str, system: str = "") -> str:
    """One line of a split."""
    first = [{"role": "system", "content": system}] if system else []
    turns = [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, "source": "upload", "origin": "0" * 64, "label": "human"})
