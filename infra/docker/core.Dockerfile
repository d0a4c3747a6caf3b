# Light services: data, trainer, evaluator, registry, serving. No torch.
FROM python:3.12-slim
WORKDIR /app
COPY requirements/uv.txt requirements/core.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements/core.txt
COPY shared shared
COPY services services
COPY infra infra
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
# A new volume takes its owner from here.
RUN mkdir /adapters /state && chown 65534:65534 /adapters /state && chmod 700 /state
USER 65534:65534
