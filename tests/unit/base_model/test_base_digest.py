"""The base digest names the files that decide an answer, with or without a manifest, and notices changes."""

import json
from pathlib import Path

import pytest

from shared.artifacts.base_model import MANIFEST, base_digest, describe, verify, write_manifest
from shared.contracts.errors import Invalid, NotFound


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    return tmp_path


def test_the_digest_is_the_same_with_and_without_a_manifest(model: Path) -> None:
    computed = base_digest(model)
    assert write_manifest(model, {"model": "test"}) == computed == base_digest(model) == verify(model)


def test_documentation_and_provenance_do_not_count(model: Path) -> None:
    digest = write_manifest(model, {"model": "test"})
    (model / "README.md").write_text("words")
    assert write_manifest(model, {"model": "another name"}) == digest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_every_file_that_decides_an_answer_counts(model: Path, name: str) -> None:
    before = base_digest(model)
    (model / name).write_bytes((model / name).read_bytes() + b" ")
    assert base_digest(model) != before


def test_changes_under_a_manifest_are_noticed(model: Path) -> None:
    write_manifest(model, {})
    (model / "model.safetensors").write_bytes(b"weightS")
    base_digest(model)  # same names and sizes: not read
    with pytest.raises(Invalid, match=r"model\.safetensors"):
        verify(model)
    (model / "model.safetensors").write_bytes(b"longer weights")
    with pytest.raises(Invalid, match=r"model\.safetensors"):
        base_digest(model)


def test_a_digest_that_a_manifest_merely_claims_is_not_believed(model: Path) -> None:
    digest = write_manifest(model, {})
    document = json.loads((model / MANIFEST).read_text()) | {"digest": "0" * 64}
    (model / MANIFEST).write_text(json.dumps(document))
    assert base_digest(model) == digest


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"a": {}}}',
        '{"files": {"../config.json": {"sha256": "", "size": 2}}}',
    ],
)
def test_a_manifest_of_another_kind_is_refused(model: Path, manifest: str) -> None:
    (model / MANIFEST).write_text(manifest)
    with pytest.raises(Invalid) as refused:
        base_digest(model)
    assert refused.value.next_step


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json is missing"):
        describe(tmp_path)
    with pytest.raises(NotFound):
        base_digest(tmp_path / "nowhere")
    with pytest.raises(NotFound):
        verify(tmp_path)
