# The image of every role: the core with the `embedded`, `demo`, `stages` and `outputs` extras, as a user of its own. What it runs is said by
# docker-compose.yml; by itself it runs every role under one supervisor, with the embedded server in /data.
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
# The image's own pip installs into the environment, which needs none itself.
ENV PIP_PYTHON=/opt/mailquay PIP_CACHE_DIR=/var/cache/pip PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/mailquay
COPY requirements.lock ./
RUN --mount=type=cache,target=/var/cache/pip pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY pipelines pipelines
RUN --mount=type=cache,target=/var/cache/pip pip install --no-deps .

FROM python:${PYTHON_VERSION}-slim
# /app holds .env, mailboxes/ and secrets/; relative paths in them mean the same here as in a clone, `data` too.
# A new named volume takes over the owner of the folder it is mounted on.
RUN groupadd --gid 10001 mailquay \
 && useradd --uid 10001 --gid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin mailquay \
 && mkdir -p /app/mailboxes /app/secrets \
 && ln -s /data /app/data \
 && install -d -o mailquay -g mailquay -m 0700 /data /demo
COPY --from=build /opt/mailquay /opt/mailquay
ENV PATH=/opt/mailquay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data
WORKDIR /app
USER 10001:10001
CMD ["mailquay", "up"]
