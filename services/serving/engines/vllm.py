"""vLLM: its CPU build in an environment of its own, or the official one on a GPU; the flags are the same."""

from pathlib import Path

from services.serving.engines.client import EngineClient
from services.serving.engines.options import EngineOptions

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Vllm(EngineClient):
    """Many adapters, continuous batching, 2-4 GB, ready after 40-80 s on two cores."""

    @staticmethod
    def command(options: EngineOptions) -> list[str]:
        """Raises ValueError for a rank that no vLLM serves."""
        rank = next((rank for rank in _RANKS if rank >= options.max_lora_rank), None)
        if rank is None:
            raise ValueError(f"vLLM serves ranks up to {_RANKS[-1]}, not {options.max_lora_rank}")
        flags = {
            "model": options.base_model.resolve(),
            "served-model-name": options.served_name,
            "host": options.host,
            "port": options.port,
            "dtype": options.dtype,
            "max-lora-rank": rank,
            "max-loras": options.max_loras,
            "max-cpu-loras": max(options.max_cpu_loras, options.max_loras),
            "max-model-len": options.max_model_len,
            "max-num-seqs": options.max_num_seqs,
            # vLLM counts the running ones, too.
            "max-num-queued-reqs": options.max_num_seqs + options.max_queued,
            "max-logprobs": 5,
            "shutdown-timeout": options.shutdown_seconds,
            # No address from a request is fetched; an empty list would allow every one.
            "allowed-media-domains": "none.invalid",
            "worker-extension-cls": "services.serving.engines.vllm_worker.BaseRows",
            # Defaults of sampling come from the request alone, so that both engines answer alike.
            "generation-config": "vllm",
        }
        switches = ("enable-lora", "disable-fastapi-docs", "disable-uvicorn-access-log")
        # `python -m`: the `vllm` command of the CPU build looks for a package of another name and fails.
        command = [str(options.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        return command + [f"--{name}" for name in switches]

    @staticmethod
    def environment(options: EngineOptions) -> dict[str, str]:
        return {
            "PYTHONPATH": str(Path(__file__).resolve().parents[3]),  # for the worker extension
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
            "VLLM_MAX_N_SEQUENCES": "4",
            "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
            # A relative adapter path would be looked up in a hub.
            "HF_HUB_OFFLINE": "1",
            # No plug-ins: one of them joins the requested model's name to a path and loads what it finds.
            "VLLM_PLUGINS": "",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
