"""What an adapter must be before an engine sees it: engines load ruined or foreign ones and answer 200 with garbage.

On vLLM's CPU build one adapter that computes NaN even spoils other answers, through cache blocks that are used again. So
everything that can be known without computing is checked here, from the bytes that were hashed; the golden probe asks
the rest. No torch: headers and numbers are read as they lie in the file.
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.serving.weights import Malformed, read_object, read_shapes, tensors
from shared.artifacts.base_model import base_digest
from shared.contracts.errors import Invalid, NotFound

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
REQUIRED = frozenset({CONFIG, WEIGHTS})
TEMPLATE = "chat_template.jinja"
ALLOWED = REQUIRED | {TEMPLATE, "README.md"}
"""Names a folder may hold; the last two are read by people and by this check only."""

MAX_SCALE = 8.0
MAX_WEIGHT = 1_000.0  # trained weights stay below 10; far beyond it, products overflow
_MAX_FILE_BYTES = 2**30
_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
# Keys of adapter_config.json that are checked, or do not change what a saved LoRA computes. Any other one must be empty:
# a feature that is not known here is refused.
_KNOWN = {
    *("base_model_name_or_path", "bias", "inference_mode", "init_lora_weights", "lora_alpha", "lora_dropout"),
    *("megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules"),
    *("task_type", "use_rslora"),
}


class AdmissionError(Invalid):
    """This adapter must not be served; the message says why."""

    code = "adapter_refused"

    def __init__(self, reason: str) -> None:
        # Names inside an adapter are its author's: only what can be printed gets into logs, events and tables.
        clean = "".join(letter if letter.isprintable() else "?" for letter in reason)
        super().__init__(f"Adapter refused: {clean}.", "Train and publish it again for this base model.")


@dataclass(frozen=True)
class BaseSpec:
    """What an adapter must fit.

    Attributes:
        digest: the base digest.
        modules: every linear module with its weight's shape (out, in).
        template_sha256: of the chat template, if the folder has it as a file.
    """

    digest: str
    modules: Mapping[str, tuple[int, int]]
    template_sha256: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "BaseSpec":
        """Read headers only. Raises NotFound without safetensors, Invalid if they are damaged."""
        modules: dict[str, tuple[int, int]] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise NotFound(f"no safetensors in base model {folder}", "Save the base model with transformers.")
        for path in files:
            try:
                shapes = read_shapes(path)
            except Malformed as error:
                raise Invalid(f"{path} is damaged: {error}", "Fetch the base model again.") from error
            for name, shape in shapes.items():
                if name.endswith(".weight") and len(shape) == 2:
                    modules[name.removesuffix(".weight")] = (shape[0], shape[1])
        template = folder / TEMPLATE
        digest = hashlib.sha256(template.read_bytes()).hexdigest() if template.is_file() else None
        return cls(base_digest(folder), modules, digest)


def admit(
    folder: Path,
    *,
    base: BaseSpec,
    base_digest: str,
    manifest: Mapping[str, str],
    targets: Collection[str],
    max_rank: int,
) -> None:
    """Return if the adapter in `folder` may be loaded.

    Args:
        base: the base model that the engine runs.
        base_digest: the base model that the adapter was trained on, as approved.
        manifest: file name -> SHA-256, as approved.
        targets: modules that the recipe adapts, such as `q_proj`.
        max_rank: the largest rank that the engine serves.

    Raises:
        AdmissionError: it may not.
    """
    if base_digest != base.digest:
        raise AdmissionError("it was trained on another base model than the engine runs")
    files = _read_files(folder, manifest)
    template = manifest.get(TEMPLATE)
    if template is not None and base.template_sha256 is not None and template != base.template_sha256:
        raise AdmissionError("it was trained with another chat template than the base model has")
    try:
        config = read_object(files[CONFIG])
        rank = _check_config(config, targets, max_rank)
        _check_tensors(files[WEIGHTS], base, config["target_modules"], rank)
    except Malformed as error:
        raise AdmissionError(str(error)) from error


def _read_files(folder: Path, manifest: Mapping[str, str]) -> dict[str, bytes]:
    """The contents of the required files. Every file is named in the manifest, allowed, plain, and has its digest."""
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if missing := sorted(REQUIRED - (present & manifest.keys())):
        raise AdmissionError(f"{missing[0]} is missing")
    if strange := sorted((present | manifest.keys()) - ALLOWED):
        raise AdmissionError(f"{strange[0][:80]} is not one of the files an adapter may have")
    if uneven := sorted(present ^ manifest.keys()):
        raise AdmissionError(f"{uneven[0]} is not in both the manifest and the folder")
    contents = {}
    for name in sorted(present):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise AdmissionError(f"{name} is not a plain file")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise AdmissionError(f"{name} is larger than {_MAX_FILE_BYTES} bytes")
        contents[name] = path.read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != manifest[name]:
            raise AdmissionError(f"{name} differs from its digest")
    return contents


def _check_config(config: dict[str, Any], targets: Collection[str], max_rank: int) -> int:
    """The rank, if the configuration is plain LoRA that every engine computes alike."""
    if config.get("peft_type") != "LORA" or config.get("task_type") != "CAUSAL_LM":
        raise AdmissionError("it is not a LoRA for a causal language model")
    if unknown := sorted(name for name, value in config.items() if value and name not in _KNOWN):
        raise AdmissionError(f"it uses {unknown[0][:80]}, which is not served")
    if config.get("bias", "none") != "none" or config.get("init_lora_weights", True) not in (
        True,
        False,
        "gaussian",
    ):
        raise AdmissionError("it changes the base model's own weights")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= max_rank:
        raise AdmissionError(f"its rank is not between 1 and {max_rank}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise AdmissionError("its alpha is not a positive finite number")
    if alpha > MAX_SCALE * (math.sqrt(rank) if config.get("use_rslora") else rank):
        raise AdmissionError(f"its scale alpha/rank is above {MAX_SCALE:g}")
    wanted = config.get("target_modules")
    if not isinstance(wanted, list) or not wanted or not all(isinstance(name, str) for name in wanted):
        raise AdmissionError("its target_modules are not a list of names")
    if outside := sorted(set(wanted) - set(targets)):
        raise AdmissionError(f"it adapts {outside[0][:80]}, which is not in the recipe")
    return rank


def _check_tensors(data: bytes, base: BaseSpec, targets: Collection[str], rank: int) -> None:
    """Exactly one pair of finite matrices of the right shape for every target in every layer."""
    expected = {}
    for module, (out, into) in base.modules.items():
        if module.rpartition(".")[2] in targets:
            expected[f"{module}.A"], expected[f"{module}.B"] = (rank, into), (out, rank)
    seen = set()
    for name, shape, values in tensors(data):
        match = _KEY.fullmatch(name)
        key = f"{match['module']}.{match['side']}" if match else ""
        if key not in expected:
            raise AdmissionError(f"tensor {name[:80]} is not one of its targets in this base model")
        if shape != expected[key]:
            raise AdmissionError(f"{key} has shape {shape}, but rank and base model ask for {expected[key]}")
        if not (np.abs(values) <= MAX_WEIGHT).all():  # false for NaN, too
            raise AdmissionError(f"{key} holds numbers that are not finite or above {MAX_WEIGHT:g}")
        seen.add(key)
    if lacking := sorted(expected.keys() - seen):
        raise AdmissionError(f"{lacking[0]} is missing")
    if not expected:
        raise AdmissionError("the base model has none of its targets")
