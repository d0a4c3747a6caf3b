"""For vLLM's worker processes only, which import it by `--worker-extension-cls`: base rows stay the base model's.

On a CPU, vLLM 0.32 looks up the adapter of each row by its slot, and a row of the base model has slot -1, which Python
reads as the last one. As soon as every slot was used once (unloading frees none), base rows that share a batch with
adapter rows are answered through the adapter in the last slot. The contract suite loads enough adapters to see it.
"""

from typing import Any


class BaseRows:
    """Mixed into vLLM's worker; being imported is all it does."""


def spare_base_rows() -> None:
    """Make the first of the two LoRA products 0 for rows without an adapter."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    shrink = lora_ops.bgmv_shrink

    def bgmv_shrink(inputs: Any, weights: Any, output: Any, slots: Any, scaling: float = 1.0) -> None:
        shrink(inputs, weights, output, slots, scaling)
        output.masked_fill_((slots < 0).unsqueeze(1), 0)

    lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = bgmv_shrink


spare_base_rows()  # vLLM offers no later moment to a worker extension
