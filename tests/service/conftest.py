"""What the services' tests have in common."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny
from tests.kit import Keys


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def token(keys: Keys) -> Callable[..., str]:
    return keys.token


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random base model with the real one's tokenizer shape."""
    folder = tmp_path_factory.mktemp("base") / "tiny-model"
    make_tiny(folder)
    return folder
