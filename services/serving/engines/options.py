"""What an engine is started with; each plug-in turns it into its own flags and variables."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EngineOptions:
    """How to start an engine.

    Attributes:
        base_model: folder of the base model.
        port: port to listen on, on `host`.
        host: keep it on loopback or a private network; an engine's admin routes need no key.
        served_name: the name of the base model in requests.
        python: interpreter of the environment that holds the engine.
        max_lora_rank: largest rank of any adapter. vLLM is up to 7 times slower with one that is larger than needed.
        max_loras: different adapters in one batch.
        max_cpu_loras: adapters kept loaded. vLLM dies if one is evicted and its folder is gone: stay below.
        max_model_len: longest prompt plus answer, in tokens.
        max_num_seqs: requests computed together.
        max_queued: requests that may wait beyond those; more are answered 429 or 503.
        threads: compute threads of the small engine; vLLM takes what the processor affinity leaves it.
        dtype: `auto`, `float32` or `bfloat16`. `auto` is the fastest that the processor computes well.
        kv_cache_gib: memory for keys and values of vLLM, in GiB.
        shutdown_seconds: how long running answers may take after SIGTERM.
    """

    base_model: Path
    port: int
    host: str = "127.0.0.1"
    served_name: str = "base"
    python: Path = Path(sys.executable)
    max_lora_rank: int = 16
    max_loras: int = 4
    max_cpu_loras: int = 32
    max_model_len: int = 2_048
    max_num_seqs: int = 32
    max_queued: int = 256
    threads: int = 1
    dtype: str = "auto"
    kv_cache_gib: int = 1
    shutdown_seconds: int = 20
