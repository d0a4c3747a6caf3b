"""Both engines, each started once per session, with a tiny random base model and three adapters."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.base_model.tiny import make_tiny
from tests.contract.engines.running import NAMES, QUESTIONS, Running

ROOT = Path(__file__).parents[3]
# Generous: both need about ten seconds of a processor that others may be using, vLLM some forty.
START_SECONDS = {"transformers": 600.0, "vllm": 1_500.0}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.contract.engines.adapters import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    everywhere = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return {
        "intent-v1": make_adapter(folder / "1", tiny_base, seed=1),
        "intent-v2": make_adapter(folder / "2", tiny_base, seed=2, rank=16, alpha=8),
        "mail-v1": make_adapter(folder / "3", tiny_base, seed=3, rank=4, alpha=8, targets=everywhere),
    }


def engine_python(name: str) -> Path:
    """The interpreter that has the engine."""
    if name == "transformers":
        return Path(sys.executable)
    python = Path(os.environ.get("DRIFTWHEEL_ENGINE_PYTHON", ROOT / ".venv-engine/bin/python"))
    assert python.exists(), (
        f"vLLM's environment is not at {python}: run `make setup`, or deselect with -m 'not vllm'"
    )
    return python


@pytest.fixture(scope="session", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    name = request.param
    log = tmp_path_factory.mktemp(name) / "engine.log"
    with Running(name, tiny_base, log, engine_python(name)) as running:
        asyncio.run(running.wait_ready(START_SECONDS[name]))
        yield running


@pytest.fixture
async def loaded(engine: Running, adapters: dict[str, Path]) -> Running:
    """The engine with all adapters."""
    async with engine.client() as client:
        for name, folder in adapters.items():
            await client.load(name, folder)
    return engine


@pytest.fixture(scope="session")
def expected(tiny_base: Path, adapters: dict[str, Path]) -> dict[tuple[str, str], str]:
    """Name and question -> what peft answers."""
    from tests.contract.engines.adapters import Reference

    reference = Reference(tiny_base, adapters)
    return {(name, question): reference.chat(name, question, 12) for name in NAMES for question in QUESTIONS}
