"""The small engine on a tiny random model, its adapters, and the evidence that an evaluator would give them."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from services.serving.admission import BaseSpec
from services.serving.engines import ENGINES, EngineClient, EngineOptions
from shared.artifacts.objects import ObjectStore, object_key, publish
from shared.contracts.events import ObjectRef
from shared.contracts.policy import Recipe

RANK, ALPHA = 4, 16
TARGETS = Recipe().targets
QUESTIONS = [f"question {number}: where is my card?" for number in range(8)]


@dataclass
class SmallEngine:
    """A process of its own, killed and started again at will, always at the same address."""

    base: Path
    log: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        options = EngineOptions(
            base_model=self.base, port=self.port, python=Path(sys.executable), max_lora_rank=RANK
        )
        kind = ENGINES["transformers"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                kind.command(options), env=os.environ | kind.environment(options), stdout=log, stderr=log
            )

    async def ready(self) -> None:
        async with ENGINES["transformers"](self.url) as client, asyncio.timeout(120):
            while not await client.health():
                if self.process is None or self.process.poll() is not None:
                    raise RuntimeError(f"the engine ended: {self.log.read_text()[-2_000:]}")
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def adapter_files(base: Path, seed: int, ruin: str = "") -> dict[str, bytes]:
    """An adapter in PEFT's layout that changes what the base says; `ruin` names what is wrong with it."""
    draw = np.random.default_rng(seed)
    tensors = {}
    for module, (out, into) in BaseSpec.read(base).modules.items():
        if module.rpartition(".")[2] in TARGETS:
            name = f"base_model.model.{module}.lora"
            tensors[f"{name}_A.weight"] = draw.normal(0, 0.5, (RANK, into)).astype(np.float32)
            size = 0.0 if ruin == "no effect" else 0.5
            tensors[f"{name}_B.weight"] = draw.normal(0, size, (out, RANK)).astype(np.float32)
    if ruin == "not finite":
        next(iter(tensors.values()))[0, 0] = np.nan
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(TARGETS),
        "base_model_name_or_path": str(base),
    }
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


async def publish_adapter(store: ObjectStore, files: dict[str, bytes], version: int) -> str:
    """Returns its digest."""
    return (await publish(store, "adapters", files, {"version": version})).digest


async def publish_evidence(store: ObjectStore, golden: list[dict[str, Any]]) -> ObjectRef:
    report = json.dumps({"golden": golden}).encode()
    digest = hashlib.sha256(report).hexdigest()
    key = object_key(digest, "report.json")
    await store.put("evaluations", key, report)
    return ObjectRef(bucket="evaluations", key=key, sha256=digest)


async def golden(client: EngineClient, folder: Path, name: str) -> list[dict[str, Any]]:
    """What the adapter in `folder` answers, and the base; asked of the engine itself, under a name nobody uses."""
    await client.load(name, folder)
    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        answer = await client.chat(name, messages, 8)
        base_answer = await client.chat("base", messages, 8)
        found.append(
            {
                "messages": messages,
                "answer": answer,
                "base_answer": base_answer,
                "max_tokens": 8,
                "margin": 1.0,
            }
        )
    await client.unload(name)
    return found


async def until(condition: Any, seconds: float = 180) -> None:
    """Wait for a condition, sync or async."""
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        await asyncio.sleep(0.05)
