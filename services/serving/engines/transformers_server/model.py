"""One step of the network for rows that come and go, each with its own adapter and its own length."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import pad

from services.serving.engines.transformers_server.adapters import Adapter, read_adapter


@dataclass
class Batch:
    """Rows that decode together. Columns are left-padded: column t of a row counts only where `mask` is 1.

    Attributes:
        adapters: one per row, None for the base model.
        cache: per attention layer `keys` and `values` [rows, heads, columns, size] (a DynamicCache of transformers).
        mask: [rows, columns] of 0 and 1.
        positions: [rows, 1], the position of the next token.
    """

    adapters: list[Adapter | None]
    cache: Any
    mask: Tensor
    positions: Tensor

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only they needed."""
        index = torch.tensor(rows)
        self.adapters = [self.adapters[row] for row in rows]
        self.mask, self.positions = self.mask[index], self.positions[index]
        unused = int((self.mask.sum(0) == 0).int().cumprod(0).sum())
        self.mask = self.mask[:, unused:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[index, :, unused:], layer.values[index, :, unused:]

    def join(self, other: "Batch") -> None:
        """Add the rows of `other` below."""
        columns = max(self.mask.shape[1], other.mask.shape[1])
        left, right = columns - self.mask.shape[1], columns - other.mask.shape[1]
        self.adapters = self.adapters + other.adapters
        self.mask = torch.cat([pad(self.mask, (left, 0)), pad(other.mask, (right, 0))])
        self.positions = torch.cat([self.positions, other.positions])
        for layer, new in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = torch.cat([pad(layer.keys, (0, 0, left, 0)), pad(new.keys, (0, 0, right, 0))])
            layer.values = torch.cat([pad(layer.values, (0, 0, left, 0)), pad(new.values, (0, 0, right, 0))])


class Model:
    """A causal language model of transformers with adapters per row. Not thread-safe: one thread computes."""

    def __init__(self, folder: Path, dtype: str, max_rank: int) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        kind = "auto" if dtype == "auto" else getattr(torch, dtype)
        self._net = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, local_files_only=True).eval()
        if dtype == "auto" and self._net.dtype != torch.float32 and not computes_bfloat16():
            self._net = self._net.float()
        self._max_rank = max_rank
        self._active: dict[Linear, tuple[Tensor, Tensor]] = {}
        self._selected: list[Adapter | None] | None = None
        for name, module in self._net.named_modules():
            if isinstance(module, Linear) and name != "lm_head":
                module.register_forward_hook(self._add_delta)

    @property
    def dtype(self) -> str:
        return str(self._net.dtype).removeprefix("torch.")

    @property
    def max_positions(self) -> int:
        return int(self._net.config.max_position_embeddings)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end an answer."""
        ends = self._net.generation_config.eos_token_id
        return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def read(self, folder: Path) -> Adapter:
        """Raises BadAdapter."""
        return read_adapter(folder, self._net, self._max_rank)

    def prefill(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[Adapter | None]
    ) -> tuple[Tensor, Batch]:
        """Read prompts (token ids). Returns the logits of the first answer token [rows, vocabulary] and the batch."""
        columns = max(len(prompt) for prompt in prompts)
        tokens = torch.tensor([[0] * (columns - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (columns - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        prefixes = torch.tensor([adapter.prefix_tokens if adapter else 0 for adapter in adapters])
        positions = (mask.cumsum(1) - 1).clamp(min=0) + prefixes[:, None]
        longest = int(prefixes.max())
        head = (torch.arange(longest)[None, :] >= longest - prefixes[:, None]).long()
        with torch.inference_mode():
            cache = self._cache(adapters, longest)
            batch = Batch(list(adapters), cache, torch.cat([head, mask], 1), positions)
            logits = self._forward(batch, tokens)
        batch.positions = positions[:, -1:] + 1
        return logits, batch

    def decode(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Append one token per row [rows]. Returns the logits of the next [rows, vocabulary]."""
        batch.mask = pad(batch.mask, (0, 1), value=1)
        with torch.inference_mode():
            logits = self._forward(batch, tokens[:, None])
        batch.positions = batch.positions + 1
        return logits

    def _forward(self, batch: Batch, tokens: Tensor) -> Tensor:
        self._select(batch.adapters)
        # Without padding no mask is needed, and attention takes its fast path.
        mask = None if bool(batch.mask.all()) else batch.mask
        out = self._net(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=batch.positions,
            cache=batch.cache,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _cache(self, adapters: Sequence[Adapter | None], longest: int) -> Any:
        """A cache that begins with the rows' prefixes, left-padded to the longest."""
        from transformers import DynamicCache

        prefixed = next((adapter for adapter in adapters if adapter and adapter.prefix), None)
        if prefixed is None:
            return DynamicCache()

        def stack(layer: int, part: int) -> Tensor:
            none = prefixed.prefix[layer][part][:, :0]
            rows = [
                adapter.prefix[layer][part] if adapter and adapter.prefix else none for adapter in adapters
            ]
            return torch.stack([pad(row, (0, 0, longest - row.shape[1], 0)) for row in rows])

        return DynamicCache([(stack(layer, 0), stack(layer, 1)) for layer in range(len(prefixed.prefix))])

    def _select(self, adapters: list[Adapter | None]) -> None:
        """Gather the LoRA pairs of these rows; only when rows changed, because it costs as much as a small step."""
        if adapters == self._selected:
            return
        self._selected, self._active = list(adapters), {}
        kinds = set(adapters)
        if len(kinds) == 1:
            adapter = adapters[0]
            self._active = adapter.pairs if adapter else {}
            return
        layers = {layer: pair for adapter in kinds if adapter for layer, pair in adapter.pairs.items()}
        for layer, (down, up) in layers.items():
            zeros = torch.zeros_like(down), torch.zeros_like(up)
            pairs = [(adapter.pairs.get(layer) if adapter else None) or zeros for adapter in adapters]
            self._active[layer] = torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    def _add_delta(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        pair = self._active.get(module)
        return None if pair is None else output + (inputs[0] @ pair[0]) @ pair[1]


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere float32 is faster."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
