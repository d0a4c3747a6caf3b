"""`python -m services.serving.engines.transformers_server --model DIR --port PORT`."""

import argparse
from pathlib import Path

import torch
import uvicorn

from services.serving.engines.transformers_server.engine import Engine
from services.serving.engines.transformers_server.server import make_server


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="transformers_server", description="Serve one base model and many adapters."
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--served-model-name", default="base", help="its name in requests (%(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; the admin routes need no key"
    )
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the weights"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (%(default)s)")
    parser.add_argument("--max-lora-rank", type=int, default=16, help="largest rank served (%(default)s)")
    parser.add_argument(
        "--max-adapters", type=int, default=32, help="most adapters loaded at once (%(default)s)"
    )
    parser.add_argument(
        "--max-model-len", type=int, default=2_048, help="longest prompt and answer, in tokens"
    )
    parser.add_argument(
        "--max-num-seqs", type=int, default=32, help="answers computed together (%(default)s)"
    )
    parser.add_argument("--max-queued", type=int, default=256, help="answers that may wait; beyond it 429")
    parser.add_argument(
        "--shutdown-seconds", type=int, default=20, help="time for running answers after SIGTERM"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = Engine(
        options.model,
        served_name=options.served_model_name,
        dtype=options.dtype,
        max_lora_rank=options.max_lora_rank,
        max_adapters=options.max_adapters,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_queued=options.max_queued,
    )
    uvicorn.run(
        make_server(engine),
        host=options.host,
        port=options.port,
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=options.shutdown_seconds,
    )


if __name__ == "__main__":
    main()
