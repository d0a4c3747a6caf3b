# Workers that train and evaluate: torch, transformers, peft.
FROM python:3.12-slim
WORKDIR /app
COPY requirements/uv.txt requirements/worker.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements/worker.txt
COPY shared shared
COPY services services
COPY infra infra
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
USER 65534:65534
