# vLLM on a CPU. On a GPU use the official image with the same arguments (docker-compose.yml, service `engine`).
FROM python:3.12-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ libnuma1 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements/uv.txt requirements/engine.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements/engine.txt
# The worker extension that keeps base rows the base model's, and what it imports.
COPY services/ services/
COPY shared/ shared/
USER 65534:65534
