"""The whole platform on a random tiny model: every process is real, only the language skill is missing."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny
from infra.local.settings import LocalSettings
from infra.local.stack import Stack
from tests.loop import Platform


@pytest.fixture(scope="package")
def full_stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-faults-"))
    make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
    # An event of a model that nobody declares is given up within a test's patience.
    os.environ["DRIFTWHEEL_TRAINER__RETRY_LATER_SECONDS"] = "20"
    try:
        with Stack(home, engine="transformers", base_model=home / "tiny-model", http_port=18180) as stack:
            stack.start()
            yield stack
    finally:
        del os.environ["DRIFTWHEEL_TRAINER__RETRY_LATER_SECONDS"]
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
async def platform(full_stack: Stack) -> AsyncIterator[Platform]:
    platform = Platform(full_stack)
    yield platform
    await platform.http.aclose()
