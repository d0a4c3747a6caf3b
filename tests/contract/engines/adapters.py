"""Adapters as peft saves them, with weights that change the answer, and peft's own answers to hold engines against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def make_adapter(
    folder: Path, base: Path, *, seed: int, rank: int = 8, alpha: int = 16, targets: Sequence[str] = TARGETS
) -> Path:
    """Save a LoRA with random weights. B is not zero as after peft's initialisation: the adapter has an effect."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), task_type="CAUSAL_LM")
    model = get_peft_model(load(base), config)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def load(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


class Reference:
    """What peft and `generate` answer, greedily, one prompt at a time."""

    def __init__(self, base: Path, adapters: dict[str, Path]) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._base = load(base)
        self._adapters = adapters

    def chat(self, name: str, content: str, max_tokens: int) -> str:
        model = self._base if name == "base" else PeftModel.from_pretrained(self._base, self._adapters[name])
        messages = [{"role": "user", "content": content}]
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)[
            0, prompt["input_ids"].shape[1] :
        ]
        if name != "base":
            self._base = model.unload()
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
