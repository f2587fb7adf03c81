# Two images from one file: `--target operator` (no libvirt, no root) and `--target agent` (libvirt, QEMU's tools, LVM).
FROM docker.io/library/debian:bookworm-slim AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM python AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv python3-dev gcc pkg-config libvirt-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/operator.lock requirements/agent.lock requirements/
RUN python3 -m venv /opt/operator && /opt/operator/bin/pip install --no-cache-dir -r requirements/operator.lock
RUN python3 -m venv /opt/agent && /opt/agent/bin/pip install --no-cache-dir -r requirements/agent.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /opt/operator/bin/pip install --no-cache-dir --no-deps . && /opt/agent/bin/pip install --no-cache-dir --no-deps .

FROM python AS operator
COPY --from=build /opt/operator /opt/operator
USER 65532:65532
ENTRYPOINT ["/opt/operator/bin/diskmigration-operator"]

FROM python AS agent
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvirt0 qemu-utils lvm2 util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/agent /opt/agent
ENTRYPOINT ["/opt/agent/bin/diskmigration-agent"]
