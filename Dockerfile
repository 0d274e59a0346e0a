# One image for server, worker and migrations. Build: docker build -t chimera .
# Server (default):  docker run chimera
# Worker:            docker run chimera chimera-worker
# Migrations:        docker run chimera chimera migrate up

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/chimera
ENV PATH=/opt/chimera/bin:$PATH
COPY pyproject.toml constraints.txt README.md ./
COPY src ./src
COPY workers ./workers
COPY migrations ./migrations
# The engines of the embedded stack stay out: a container talks to real servers.
RUN pip install --no-cache-dir -c constraints.txt '.[kms]' \
    && python -m compileall -q /opt/chimera/lib

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="chimera" \
      org.opencontainers.image.description="Evidence-grade control plane for testing language models" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 chimera \
    && useradd --uid 10001 --gid chimera --no-create-home --home-dir /var/lib/chimera chimera \
    && install -d -o chimera -g chimera -m 0700 /var/lib/chimera
COPY --from=build /opt/chimera /opt/chimera
ENV PATH=/opt/chimera/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CHIMERA_HOME=/var/lib/chimera \
    CHIMERA_LISTEN=0.0.0.0:8400
USER 10001:10001
WORKDIR /var/lib/chimera
# Key files and the audit signer's state: they must outlive the container.
VOLUME /var/lib/chimera
EXPOSE 8400
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["chimera", "status", "--health"]
CMD ["chimera-server"]
