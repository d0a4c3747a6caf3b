"""A small platform that is watched: every service on a random tiny model, its spans sent to a collector of ours."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny
from infra.local.credentials import SERVICES
from infra.local.settings import LocalSettings
from infra.local.stack import Stack
from tests.service.infra.collector import Collector


@dataclass(frozen=True)
class Watched:
    stack: Stack
    collector: Collector


@pytest.fixture(scope="package")
def watched() -> Iterator[Watched]:
    home = Path(tempfile.mkdtemp(prefix="driftwheel-watched-"))
    make_tiny(home / "tiny-model", tokenizer=LocalSettings().base_model)
    collector = Collector()
    names = [f"DRIFTWHEEL_{service.upper()}__OTLP_ENDPOINT" for service in SERVICES]
    # Chat must show its metrics and spans; no model is trained here, so the base answers.
    os.environ.update(dict.fromkeys(names, collector.url) | {"DRIFTWHEEL_SERVING__BASE_ANSWERS": "true"})
    try:
        with Stack(
            home, engine="transformers", base_model=home / "tiny-model", durable=False, http_port=18380
        ) as stack:
            stack.start("engine", *SERVICES, "caddy")
            yield Watched(stack, collector)
    finally:
        for name in (*names, "DRIFTWHEEL_SERVING__BASE_ANSWERS"):
            del os.environ[name]
        collector.stop()
        shutil.rmtree(home, ignore_errors=True)
