"""Inference engines behind one contract: OpenAI's routes, adapters loaded and unloaded at run time, several in one batch.

`ENGINES[name](url)` is a client; `ENGINES[name].command(options)` and `.environment(options)` start one.
`tests/contract/engines` holds both to the same promises.
"""

from services.serving.engines.client import AdapterRefused, EngineClient, EngineUnavailable, RequestRefused
from services.serving.engines.options import EngineOptions
from services.serving.engines.transformers import Transformers
from services.serving.engines.vllm import Vllm

__all__ = [
    "ENGINES",
    "AdapterRefused",
    "EngineClient",
    "EngineOptions",
    "EngineUnavailable",
    "RequestRefused",
]

ENGINES: dict[str, type[EngineClient]] = {"vllm": Vllm, "transformers": Transformers}
