"""The tokenizer of the default base model, without its weights."""

from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    make_tiny(folder)
    return folder
