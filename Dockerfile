# Two images from one file: `--target operator` (no libvirt, no root) and `--target agent` (libvirt, QEMU's tools, LVM).
# `--build-arg BASE=debian@sha256:…` pins the base.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# pip and the build backends, which the images do not hold: their stages see this one while they install.
FROM python AS tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv python3-dev gcc pkg-config libvirt-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/build.lock /src/requirements/
RUN python3 -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/requirements/build.lock
# libvirt-python alone has no wheels: it is built against the libvirt of this base.
COPY requirements/agent.lock /src/requirements/
RUN /opt/tools/bin/pip wheel --no-cache-dir --require-hashes --only-binary :all: --no-binary libvirt-python \
        --no-build-isolation --wheel-dir /opt/tools/wheels -r /src/requirements/agent.lock
# Last: buildah 1.28 shows another stage's mount the files without this stage's last step, when that comes from its cache.
WORKDIR /src

FROM python AS operator-packages
COPY requirements/operator.lock /opt/diskmigration/
# Of the Kubernetes client, which is most of an image, the asynchronous twin is not used, and of its thousand generated
# modules a handful: those are compiled when they are loaded.
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    python3 -m venv --without-pip /opt/diskmigration \
    && /opt/tools/bin/pip --python /opt/diskmigration/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
        -r /opt/diskmigration/operator.lock \
    && rm -rf /opt/diskmigration/lib/python3*/site-packages/kubernetes/aio \
        /opt/diskmigration/lib/python3*/site-packages/kubernetes/client/*/__pycache__

FROM python AS agent-packages
# lvm2 asks no lvmlockd while its pid file is not there, and the host's is not in the pod: lvm2's lib/locking/lvmlockd.c.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvirt0 qemu-utils lvm2 mount util-linux \
    && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log \
    && touch /run/lvmlockd.pid
COPY requirements/agent.lock /opt/diskmigration/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    python3 -m venv --without-pip /opt/diskmigration \
    && /opt/tools/bin/pip --python /opt/diskmigration/bin/python install --no-cache-dir --no-index --no-deps \
        /opt/tools/wheels/*.whl \
    && rm -rf /opt/diskmigration/lib/python3*/site-packages/kubernetes/aio \
        /opt/diskmigration/lib/python3*/site-packages/kubernetes/client/*/__pycache__

FROM tools AS project
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
# Apart from what it depends on: a change of its sources alone makes small new layers.
RUN /opt/tools/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation --prefix /opt/project . \
    && sed -i '1s|^#!.*|#!/opt/diskmigration/bin/python|' /opt/project/bin/*

FROM operator-packages AS operator
COPY --from=project /opt/project/lib /opt/diskmigration/lib
COPY --from=project /opt/project/bin/diskmigration-operator /opt/diskmigration/bin/
USER 65532:65532
ENTRYPOINT ["/opt/diskmigration/bin/diskmigration-operator"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="diskmigration-operator" \
    org.opencontainers.image.description="Reconciles DiskMigrations: checks, queues and places them" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM agent-packages AS agent
COPY --from=project /opt/project/lib /opt/diskmigration/lib
COPY --from=project /opt/project/bin/diskmigration-agent /opt/diskmigration/bin/
ENTRYPOINT ["/opt/diskmigration/bin/diskmigration-agent"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="diskmigration-agent" \
    org.opencontainers.image.description="Moves the disks of one node's virtual machines between storage domains" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
