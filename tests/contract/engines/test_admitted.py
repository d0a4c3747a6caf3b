"""What peft saves for this base model passes admission; the same adapter for another base does not."""

import hashlib
from pathlib import Path

import pytest

from services.serving.admission import AdmissionError, BaseSpec, admit

EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _admit(folder: Path, base: BaseSpec, targets: tuple[str, ...]) -> None:
    manifest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    admit(folder, base=base, base_digest=base.digest, manifest=manifest, targets=targets, max_rank=16)


def test_an_adapter_of_peft_is_admitted(tiny_base: Path, adapters: dict[str, Path]) -> None:
    base = BaseSpec.read(tiny_base)
    assert base.template_sha256
    for folder in adapters.values():
        _admit(folder, base, EVERYWHERE)
    with pytest.raises(AdmissionError, match="not in the recipe"):
        _admit(adapters["mail-v1"], base, EVERYWHERE[:4])


def test_it_does_not_fit_a_base_of_another_size(tiny_base: Path, adapters: dict[str, Path]) -> None:
    base = BaseSpec.read(tiny_base)
    wider = BaseSpec(base.digest, {name: (out, 2 * into) for name, (out, into) in base.modules.items()})
    deeper = BaseSpec(base.digest, base.modules | {"model.layers.2.self_attn.q_proj": (64, 64)})
    with pytest.raises(AdmissionError, match="has shape"):
        _admit(adapters["intent-v1"], wider, EVERYWHERE)
    with pytest.raises(AdmissionError, match=r"layers\.2\.self_attn\.q_proj\.A is missing"):
        _admit(adapters["intent-v1"], deeper, EVERYWHERE)
