# The server with the shipped models: docker build -t lockstep . && docker run -p 8001:8001 -p 8002:8002 lockstep
# On a GPU: docker build --build-arg EXTRA=server-gpu ... and docker run --gpus all ...
FROM python:3.12-slim

ARG EXTRA=server-cpu

WORKDIR /opt/lockstep
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY server server
COPY clients clients
COPY export export
RUN pip install --no-cache-dir ".[${EXTRA}]" \
    && useradd --create-home --uid 10001 lockstep \
    && install -d -o lockstep /home/lockstep/.cache/lockstep
COPY models /models

USER lockstep
WORKDIR /home/lockstep
# Mount a folder of your own over /models to serve other ones. LOCKSTEP_ADDRESS is what the health check asks.
ENV LOCKSTEP_MODELS=/models \
    LOCKSTEP_ADDRESS=localhost:8001 \
    PYTHONUNBUFFERED=1
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["lockstep", "health"]
# Exec form: SIGTERM reaches the server, which drains for --drain-s seconds at most.
ENTRYPOINT ["lockstep-serve"]
