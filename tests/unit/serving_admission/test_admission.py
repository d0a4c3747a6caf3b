"""Hostile adapters are refused with their reason, good ones are admitted, and no bytes make the check itself fail."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.serving.admission import CONFIG, WEIGHTS, AdmissionError
from tests.unit.serving_admission.adapter import BASE, DIGEST, HIDDEN, RANK, Made, good_tensors, key


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "adapter").write()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_good_adapter_is_admitted(made: Made, dtype: str) -> None:
    made.dtype = dtype
    made.write().admit()


def test_a_model_card_and_the_base_models_chat_template_may_lie_beside_it(made: Made) -> None:
    (made.folder / "README.md").write_text("# card")
    made.admit()
    (made.folder / "chat_template.jinja").write_text("{{ messages }}")
    made.admit(
        manifest=made.manifest(),
        base=type(BASE)(DIGEST, BASE.modules, made.manifest()["chat_template.jinja"]),
    )


def _filled(value: float, dtype: str = "float32") -> Callable[[Made], None]:
    def spoil(made: Made) -> None:
        made.tensors[key("k_proj", "B", 1)].flat[-1] = value
        made.dtype = dtype

    return spoil


def _config(name: str, value: object) -> Callable[[Made], None]:
    return lambda made: made.config.__setitem__(name, value)


def _tensor(name: str, shape: tuple[int, ...] | None) -> Callable[[Made], None]:
    """Give a tensor another shape, or take it away."""

    def spoil(made: Made) -> None:
        made.tensors.pop(name, None)
        if shape:
            made.tensors[name] = np.ones(shape, np.float32)

    return spoil


def _halved(made: Made) -> None:
    made.tensors = {n: t[: RANK // 2].copy() if ".lora_A." in n else t for n, t in made.tensors.items()}


def _nan_everywhere(made: Made) -> None:
    made.tensors = {name: np.full_like(values, np.nan) for name, values in made.tensors.items()}


SPOILED: dict[str, tuple[Callable[[Made], None], str]] = {
    "all NaN": (_nan_everywhere, "not finite"),
    "one NaN": (_filled(np.nan), "not finite"),
    "one NaN in bfloat16": (_filled(np.nan, "bfloat16"), "not finite"),
    "one infinity in float16": (_filled(np.inf, "float16"), "not finite"),
    "one minus infinity in bfloat16": (_filled(-np.inf, "bfloat16"), "not finite"),
    "a finite weight that overflows": (_filled(1e30), "above 1000"),
    "alpha 1e30": (_config("lora_alpha", 1e30), "scale alpha/rank is above 8"),
    "alpha just above the largest scale": (
        _config("lora_alpha", 8 * RANK + 0.001),
        "scale alpha/rank is above 8",
    ),
    "rank-stabilised alpha above it": (lambda m: m.config.update(use_rslora=True, lora_alpha=17), "scale"),
    "alpha beyond any float": (_config("lora_alpha", 10**400), "scale alpha/rank"),
    "negative alpha": (_config("lora_alpha", -8), "alpha is not a positive finite number"),
    "alpha as text": (_config("lora_alpha", "8"), "alpha is not a positive finite number"),
    "halved A matrices": (_halved, "has shape"),
    "config rank that disagrees with the tensors": (_config("r", RANK * 2), "has shape"),
    "rank above the largest served": (_config("r", 17), "rank is not between 1 and 16"),
    "rank 0": (_config("r", 0), "rank is not between 1 and 16"),
    "rank true": (_config("r", True), "has shape|rank is not between"),
    "target outside the recipe": (
        _config("target_modules", ["q_proj", "up_proj"]),
        "up_proj, which is not in the recipe",
    ),
    "targets as a pattern": (_config("target_modules", ".*"), "not a list of names"),
    "tensors of a target that the config does not name": (
        _config("target_modules", ["q_proj"]),
        "not one of its targets",
    ),
    "tensor of another module": (
        _tensor("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", (RANK, HIDDEN)),
        "not one of its targets",
    ),
    "tensor of a layer that the base lacks": (
        _tensor(key("q_proj", "A", 2), (RANK, HIDDEN)),
        "not one of its targets",
    ),
    "tensor with a name of another kind": (
        _tensor("prompt_embeddings", (RANK, HIDDEN)),
        "not one of its targets",
    ),
    "a name that cannot be printed": (
        _tensor("\x00\ud800".encode("utf-8", "replace").decode(), (1,)),
        "not one of its targets",
    ),
    "a missing tensor": (_tensor(key("q_proj", "B", 1), None), "q_proj.B is missing"),
    "no tensors": (lambda made: made.tensors.clear(), "is missing"),
    "auto_mapping": (_config("auto_mapping", {"base_model_class": "Evil"}), "uses auto_mapping"),
    "modules_to_save": (_config("modules_to_save", ["lm_head"]), "uses modules_to_save"),
    "DoRA": (_config("use_dora", True), "uses use_dora"),
    "a feature of tomorrow": (_config("use_quantum", 1), "uses use_quantum"),
    "trained biases": (_config("bias", "all"), "base model's own weights"),
    "PiSSA": (_config("init_lora_weights", "pissa"), "base model's own weights"),
    "another method": (_config("peft_type", "IA3"), "not a LoRA"),
    "another task": (_config("task_type", "SEQ_CLS"), "not a LoRA"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_adapter_is_refused_though_its_digests_match(made: Made, case: str) -> None:
    spoil, reason = SPOILED[case]
    spoil(made)
    with pytest.raises(AdmissionError, match=reason) as refused:
        made.write().admit()
    assert refused.value.detail.isprintable()
    assert not refused.value.retryable


def _extra(name: str) -> Callable[[Made], None]:
    return lambda made: (made.folder / name).write_bytes(b"\x80\x04.")


def _link(made: Made) -> None:
    (made.folder / WEIGHTS).rename(made.folder.parent / "elsewhere")
    (made.folder / WEIGHTS).symlink_to(made.folder.parent / "elsewhere")


def _to_pickle(made: Made) -> None:
    (made.folder / WEIGHTS).rename(made.folder / "adapter_model.bin")


FOLDERS: dict[str, tuple[Callable[[Made], object], str]] = {
    "pickle instead of safetensors": (_to_pickle, "adapter_model.safetensors is missing"),
    "pickle beside safetensors": (_extra("adapter_model.bin"), "adapter_model.bin is not one of the files"),
    "embeddings beside it": (_extra("new_embeddings.safetensors"), "not one of the files"),
    "a hidden file": (_extra(".hidden"), "not one of the files"),
    "a folder inside": (lambda made: (made.folder / "README.md").mkdir(), "README.md is not a plain file"),
    "no config": (lambda made: (made.folder / CONFIG).unlink(), "adapter_config.json is missing"),
    "a symbolic link": (_link, "is not a plain file"),
    "no folder": (lambda made: shutil.rmtree(made.folder), "adapter_config.json is missing"),
    "an empty weights file": (lambda made: (made.folder / WEIGHTS).write_bytes(b""), "cut off"),
    "a header without end": (lambda made: (made.folder / WEIGHTS).write_bytes(b"\xff" * 64), "cut off"),
    "bytes after the last tensor": (
        lambda made: (made.folder / WEIGHTS).write_bytes((made.folder / WEIGHTS).read_bytes() + b"x"),
        "belong to no tensor",
    ),
    "a config that is no object": (lambda made: (made.folder / CONFIG).write_text("[]"), "not a JSON object"),
    "alpha NaN": (
        lambda made: (made.folder / CONFIG).write_text(
            json.dumps(made.config | {"lora_alpha": float("nan")})
        ),
        "not a proper JSON object",
    ),
    "alpha 1e999": (
        lambda made: (made.folder / CONFIG).write_text(
            json.dumps(made.config).replace('_alpha": 8', '_alpha": 1e999')
        ),
        "not a positive finite number",
    ),
    "a key given twice": (
        lambda made: (made.folder / CONFIG).write_text('{"r": 4, "r": 64}'),
        "not a proper JSON object",
    ),
    "a config nested without end": (
        lambda made: (made.folder / CONFIG).write_text("[" * 100_000),
        "not a proper JSON",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_is_not_as_it_should_be_is_refused(made: Made, case: str) -> None:
    spoil, reason = FOLDERS[case]
    spoil(made)
    with pytest.raises(AdmissionError, match=reason):
        made.admit()


def test_what_was_not_approved_is_refused(made: Made) -> None:
    approved = made.manifest()
    with pytest.raises(AdmissionError, match="another base model"):
        made.admit(base_digest="a" * 64)
    with pytest.raises(AdmissionError, match="differs from its digest"):
        made.admit(manifest=approved | {WEIGHTS: "0" * 64})
    with pytest.raises(AdmissionError, match="missing"):
        made.admit(manifest={CONFIG: approved[CONFIG]})
    with pytest.raises(AdmissionError, match="not in both"):
        made.admit(manifest=approved | {"README.md": "0" * 64})
    with pytest.raises(AdmissionError, match="not in the recipe"):
        made.admit(targets=("q_proj",))
    with pytest.raises(AdmissionError, match="rank is not between 1 and 2"):
        made.admit(max_rank=2)
    (made.folder / "chat_template.jinja").write_text("{{ another }}")
    with pytest.raises(AdmissionError, match="another chat template"):
        made.admit()


def test_another_version_in_its_place_is_refused(made: Made, tmp_path: Path) -> None:
    other = Made(tmp_path / "other", tensors={n: t * 2 for n, t in good_tensors().items()}).write()
    with pytest.raises(AdmissionError, match="differs from its digest"):
        other.admit(manifest=made.manifest())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([CONFIG, WEIGHTS]), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255)
)
def test_one_altered_byte_is_refused_by_digest_and_never_breaks_the_check(
    tmp_path: Path, name: str, where: float, mask: int
) -> None:
    made = Made(tmp_path / "adapter").write()
    approved = made.manifest()
    data = bytearray((made.folder / name).read_bytes())
    data[int(where * len(data))] ^= mask
    (made.folder / name).write_bytes(data)
    with pytest.raises(AdmissionError, match="differs from its digest"):
        made.admit(manifest=approved)
    with suppress(
        AdmissionError
    ):  # published so by someone who may: refused or sound, no error of another kind
        made.admit()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", key("q_proj", "A")]), inner),
))  # fmt: skip
def test_no_header_breaks_the_check(tmp_path: Path, header: object) -> None:
    made = Made(tmp_path / "adapter").write()
    text = json.dumps(header).encode()
    (made.folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))
    with pytest.raises(AdmissionError):
        made.admit()


def test_targets_that_no_layer_has_are_refused(made: Made) -> None:
    made.config["target_modules"] = ["w_proj"]
    made.tensors = {}
    with pytest.raises(AdmissionError, match="none of its targets"):
        made.write().admit(targets=("w_proj",))
