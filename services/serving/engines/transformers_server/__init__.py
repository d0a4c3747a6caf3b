"""The small engine: OpenAI's completions over transformers, with adapters mixed in one continuously changing batch.

server (routes) -> schemas (what may be asked) + replies (how it is answered) -> scheduler (which rows run together)
-> model (one step of the network) + adapters (LoRA and prefix) + sampling (which token comes next).
Only `python -m services.serving.engines.transformers_server` imports this package: it loads torch.
"""
