# Server with the shipped models: docker build -t lockstep . && docker run -p 8001:8001 -p 8002:8002 lockstep
# For GPUs: docker build --build-arg EXTRA=server-gpu ... and docker run --gpus all ...
# Load generator: docker build --target load ...
# The page of `lockstep ui`: docker build --target ui ...
FROM python:3.12.12-slim-bookworm AS base

ENV PYTHONUNBUFFERED=1 \
    PATH=/opt/lockstep/bin:$PATH
RUN useradd --create-home --uid 10001 lockstep

# Environments are made in stages of their own and copied: the images have neither the sources nor what builds them.
FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proto proto
COPY server server
COPY clients clients
COPY export export
# Exact versions with hashes (make lock); setuptools, which builds the project, is among them.
COPY deploy/locks deploy/locks
COPY deploy/strip.sh deploy/strip.sh
RUN python -m venv /opt/lockstep

FROM build AS build-load
RUN pip install --no-deps --require-hashes -r deploy/locks/load.txt \
    && pip install --no-deps --no-build-isolation --no-index ".[load]" \
    && deploy/strip.sh /opt/lockstep

FROM build AS build-ui
RUN pip install --no-deps --require-hashes -r deploy/locks/ui.txt \
    && pip install --no-deps --no-build-isolation --no-index ".[ui]" \
    && deploy/strip.sh /opt/lockstep

FROM build AS build-server
ARG EXTRA=server-cpu
RUN pip install --no-deps --require-hashes -r deploy/locks/${EXTRA}.txt \
    && pip install --no-deps --no-build-isolation --no-index ".[${EXTRA},traces]" \
    && deploy/strip.sh /opt/lockstep

FROM base AS load
COPY --from=build-load /opt/lockstep /opt/lockstep
USER lockstep
WORKDIR /home/lockstep
ENTRYPOINT ["lockstep"]

FROM base AS ui
COPY --from=build-ui /opt/lockstep /opt/lockstep
USER lockstep
WORKDIR /home/lockstep
EXPOSE 8003
ENTRYPOINT ["lockstep", "ui", "--host", "0.0.0.0"]

# The last stage, which `docker build` builds without --target.
FROM base AS server
RUN install -d -o lockstep -g lockstep /home/lockstep/.cache /home/lockstep/.cache/lockstep
COPY --from=build-server /opt/lockstep /opt/lockstep
COPY models /models
USER lockstep
WORKDIR /home/lockstep
# Mount a folder over /models to serve other models. The health check uses LOCKSTEP_ADDRESS.
# The address is the container's: what is published decides who can connect (docs/security.md).
ENV LOCKSTEP_MODELS=/models \
    LOCKSTEP_HOST=0.0.0.0 \
    LOCKSTEP_ADDRESS=localhost:8001
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["lockstep", "health"]
# Exec form, so that SIGTERM reaches the server, which then drains for at most --drain-s seconds.
ENTRYPOINT ["lockstep-serve"]
