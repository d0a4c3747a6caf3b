"""The small engine: our own server on transformers, for tests, small machines and adapters that vLLM cannot serve."""

from pathlib import Path

from services.serving.engines.client import EngineClient
from services.serving.engines.options import EngineOptions


class Transformers(EngineClient):
    """The same contract in one process, ready after a few seconds; LoRA and prefix adapters mixed in one batch."""

    @staticmethod
    def command(options: EngineOptions) -> list[str]:
        flags = {
            "model": options.base_model.resolve(),
            "served-model-name": options.served_name,
            "host": options.host,
            "port": options.port,
            "dtype": options.dtype,
            "max-lora-rank": options.max_lora_rank,
            "max-adapters": options.max_cpu_loras,
            "max-model-len": options.max_model_len,
            "max-num-seqs": options.max_num_seqs,
            "max-queued": options.max_queued,
            "threads": options.threads,
            "shutdown-seconds": options.shutdown_seconds,
        }
        command = [str(options.python), "-m", "services.serving.engines.transformers_server"]
        return command + [f"--{name}={value}" for name, value in flags.items()]

    @staticmethod
    def environment(options: EngineOptions) -> dict[str, str]:
        return {
            "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(options.threads),
            # Waiting threads sleep: others on the same cores go on.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
