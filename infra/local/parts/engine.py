"""The inference engine: vLLM in its own environment, or the small one on transformers; one contract, two plug-ins."""

import json
import sys
from pathlib import Path

from infra.local.http import fetch
from infra.local.part import Launch, NotReady, Part, Sight, cpu_share
from infra.local.site import Site, base_environment
from services.serving.engines import ENGINES, EngineOptions


class Missing(Exception):
    """Something the engine needs is not installed; the message says what and how to get it."""


class Engine(Part):
    name = "engine"
    ports = ("engine",)
    start_seconds = 300.0
    stop_seconds = 30.0

    def external(self, site: Site) -> bool:
        return site.settings.engine_url is not None

    def prepare(self, site: Site) -> None:
        settings = site.settings
        if not (settings.base_model / "config.json").is_file():
            raise Missing(
                f"no base model in {settings.base_model}; run `make setup`, or set DRIFTWHEEL_BASE_MODEL"
            )
        if settings.engine == "vllm" and not settings.engine_python.exists():
            raise Missing(
                f"no interpreter {settings.engine_python}; run `make setup`, set DRIFTWHEEL_ENGINE_PYTHON, "
                "or use the small engine: DRIFTWHEEL_ENGINE=transformers"
            )

    def launch(self, site: Site) -> Launch:
        settings, cpus = site.settings, cpu_share("engine")
        engine = ENGINES[settings.engine]
        options = EngineOptions(
            base_model=settings.base_model,
            port=site.ports["engine"],
            python=settings.engine_python if settings.engine == "vllm" else Path(sys.executable),
            max_lora_rank=settings.engine_max_lora_rank,
            threads=len(cpus) if cpus else 1,
            shutdown_seconds=int(self.stop_seconds) - 10,
        )
        # Its processes rename themselves; without this flag that overwrites the mark by which we find them.
        environment = base_environment() | {"SPT_NOENV": "1"} | engine.environment(options)
        return Launch(engine.command(options), environment, site.folder("engine"), cpus=cpus)

    def check(self, site: Site, since: float) -> None:
        fetch(f"{site.engine_url}/health")
        models = json.loads(fetch(f"{site.engine_url}/v1/models"))["data"]
        if not models:
            raise NotReady("the engine lists no model")
        body = {"model": models[0]["id"], "prompt": "a", "max_tokens": 1}
        fetch(f"{site.engine_url}/v1/completions", body, timeout_seconds=30)

    def look(self, site: Site, since: float) -> Sight:
        """No completion: a busy engine answers those late, and is well."""
        fetch(f"{site.engine_url}/health", timeout_seconds=30)
        return Sight()
