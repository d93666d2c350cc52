# CPU image. Models are mounted or downloaded; see "Docker" in README.md.
FROM python:3.12-slim

# The kernels are compiled at the first start, for the processor that the container runs on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# Dependencies first: this layer changes rarely. The CPU build of torch is far smaller.
COPY pyproject.toml constraints.txt ./
RUN pip install --no-cache-dir uv==0.13.8 \
    && uv pip install --system --no-cache --torch-backend=cpu \
       --constraint constraints.txt --requirement pyproject.toml --extra postgres

COPY README.md LICENSE NOTICE ./
COPY qwen3_audio ./qwen3_audio
COPY main.py server.py entrypoint.sh ./
RUN uv pip install --system --no-cache --no-deps . \
    && useradd --create-home --uid 1000 speech \
    && mkdir -p models data \
    && chown 1000:1000 models data

ENV QWEN_TTS_DEVICE=cpu \
    QWEN_TTS_ATTN="" \
    MODELS_DIR=/app/models \
    DATA_DIR=/app/data \
    PYTHONUNBUFFERED=1

USER 1000
VOLUME ["/app/models", "/app/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=4); c.request('GET', '/health'); assert c.getresponse().status == 200"]

ENTRYPOINT ["qwen3-audio"]
CMD ["serve"]
