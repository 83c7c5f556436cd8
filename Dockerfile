# Built and run as docs/containers.md says. The last stage, `serve`, is what a plain build makes;
# `test` is for docker-compose.yml's service of that name, the others are on the way to these two.

# A digest would pin the base more firmly; none could be looked up where this was written. Dependabot
# moves the tag (.github/dependabot.yml).
FROM python:3.11.15-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 endeavour \
    && useradd --uid 10001 --gid endeavour --create-home --shell /usr/sbin/nologin endeavour
WORKDIR /app


# Everything in the lock has wheels: no compiler is needed. The cache never becomes a layer.
FROM base AS install
RUN python -m venv /opt/venv
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes -r requirements.lock


# The model that MODEL_SERVED=local serves: trained, passed by the gate and promoted here, in a
# registry that is thrown away with this stage. If the gate refuses, the build stops.
FROM install AS model
ARG GIT_COMMIT=unknown
ENV GIT_COMMIT=$GIT_COMMIT \
    MLFLOW_TRACKING_URI=sqlite:////tmp/mlflow.db
COPY contract contract/
COPY train train/
COPY train_config.yaml ./
RUN python -m train
COPY serve_app serve_app/
COPY serve_config.yaml ./
RUN python -m serve_app export --to /app/model


# What `make test` needs: its tools, and the whole repository; a test asks git which files it has.
FROM install AS test
# Debian keeps one version of a package per release, so there is nothing to pin to.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends chromium chromium-driver curl git make \
    && rm -rf /var/lib/apt/lists/*
COPY Makefile requirements-dev.lock ./
# By way of make, so that `make test` finds its stamps and need not install this again.
RUN --mount=type=cache,target=/root/.cache/pip \
    ln --symbolic /opt/venv .venv \
    && make install-dev \
    && chown endeavour:endeavour /app
COPY --chown=10001:10001 . .
USER 10001:10001
CMD ["make", "test"]


FROM base AS serve
ARG GIT_COMMIT=unknown
LABEL org.opencontainers.image.title="Endeavour" \
      org.opencontainers.image.description="From data to a promoted MLflow model that answers over HTTP through Ray Serve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=$GIT_COMMIT
# Named volumes take over owner and mode of the folder that they are mounted on, so these exist
# already. All else under /app belongs to root: the service can't change its own code or model.
RUN install --directory --owner=10001 --group=10001 var var/mlflow \
    && install --directory --owner=10001 --group=10001 --mode=0700 /run/endeavour
COPY --from=install /opt/venv /opt/venv
COPY LICENSE serve.env serve_config.yaml train_config.yaml train_config_boosting.yaml ./
COPY contract contract/
COPY launcher launcher/
COPY serve_app serve_app/
COPY train train/
# The service can't keep bytecode here, and each of its processes would compile the code anew.
RUN python -m compileall -q contract launcher serve_app train
COPY --from=model /app/model model/
ENV GIT_COMMIT=$GIT_COMMIT \
    MODEL_DIR=/app/model \
    MODEL_SERVED=local
USER 10001:10001
EXPOSE 8000
# http.client, as urllib would send this through a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=6s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; connection = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 8000), timeout=5); connection.request('GET', '/health/ready'); sys.exit(connection.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
# Ray stays on the container's loopback; docker-compose.yml adds --network for its `train` service.
CMD ["python", "-m", "launcher", "run"]
