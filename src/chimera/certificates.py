"""TLS and mutual TLS; certificates are read again when their files change, without a restart."""

from __future__ import annotations

from typing import Any

import grpc
import structlog

from chimera.settings import Settings

log = structlog.get_logger("chimera.tls")


def reloading_credentials(settings: Settings) -> Any:
    """Server credentials that follow the files; new connections get the new certificate.

    Raises OSError at start-up when a file cannot be read; later the last good one stays in use.
    """
    key_file, certificate_file = settings.tls_key_file, settings.tls_certificate_file
    ca_file = settings.tls_client_ca_file
    if key_file is None or certificate_file is None:
        raise ValueError("TLS needs both a certificate and its key")
    files = (key_file, certificate_file, ca_file)
    seen: list[Any] = [None]

    def configuration() -> Any:
        key, certificate = key_file.read_bytes(), certificate_file.read_bytes()
        ca = ca_file.read_bytes() if ca_file else None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)

    def stamps() -> list[int]:
        return [path.stat().st_mtime_ns for path in files if path]

    def fetch() -> Any:
        # gRPC calls this on every handshake and cannot bear an exception; None keeps the old one.
        try:
            now = stamps()
            if now == seen[0]:
                return None
            fresh = configuration()
            seen[0] = now
            return fresh
        except OSError as error:
            log.error("tls.reload_failed", error=str(error))
            return None

    first = configuration()
    seen[0] = stamps()
    return grpc.dynamic_ssl_server_credentials(
        first, fetch, require_client_authentication=settings.tls_client_ca_file is not None
    )
