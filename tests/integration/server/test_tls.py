"""TLS and mutual TLS, with certificates made here; new ones are served without a restart."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chimera.server import Server
from chimera.settings import Settings
from tests.support.stack import settings_with


@dataclass
class Authority:
    """A certificate authority of this test."""

    name: str

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = (
            self._builder(subject, subject, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @staticmethod
    def _builder(subject: Any, issuer: Any, key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    @property
    def root(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issued(self, name: str) -> tuple[bytes, bytes]:
        """(key, certificate) in PEM, for a server at 127.0.0.1 or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            self._builder(subject, self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return (
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            certificate.public_bytes(serialization.Encoding.PEM),
        )


@dataclass
class Files:
    """Where the server looks for its key and certificate."""

    key: Path
    certificate: Path

    def hold(self, authority: Authority) -> None:
        key, certificate = authority.issued("server")
        self.key.write_bytes(key)
        self.certificate.write_bytes(certificate)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "server.key", tmp_path / "server.crt")


@asynccontextmanager
async def serving(settings: Settings, files: Files, **more: Any) -> AsyncIterator[str]:
    """Address of a server with these files."""
    given = {"tls_certificate_file": files.certificate, "tls_key_file": files.key, **more}
    server = Server(settings_with(settings, **given))
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(at_once=True)


async def outcome(address: str, root: bytes, pair: tuple[bytes, bytes] | None = None) -> str:
    """What one call on a new connection comes to: OK or the status code."""
    credentials = grpc.ssl_channel_credentials(root, *(pair or (None, None)))
    options = (("grpc.use_local_subchannel_pool", 1),)  # no connection of an earlier call
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


async def test_certificates_are_read_again_without_a_restart(
    settings: Settings, files: Files
) -> None:
    """New files, new certificate for new connections; a broken file leaves the last good one."""
    old, new = Authority("old"), Authority("new")
    files.hold(old)
    async with serving(settings, files) as address:
        assert await outcome(address, old.root) == "OK"
        assert await outcome(address, new.root) == "UNAVAILABLE"
        files.hold(new)
        assert await outcome(address, new.root) == "OK"
        assert await outcome(address, old.root) == "UNAVAILABLE"
        files.certificate.write_text("half a certifica")
        assert await outcome(address, new.root) == "OK"
        files.certificate.unlink()
        assert await outcome(address, new.root) == "OK"
        files.hold(old)
        assert await outcome(address, old.root) == "OK"


async def test_mutual_tls_refuses_clients_without_a_certificate(
    settings: Settings, files: Files, tmp_path: Path
) -> None:
    """And those of another authority."""
    ours, theirs, clients = Authority("ours"), Authority("theirs"), Authority("clients")
    files.hold(ours)
    ca = tmp_path / "clients.crt"
    ca.write_bytes(clients.root)
    async with serving(settings, files, tls_client_ca_file=ca) as address:
        assert await outcome(address, ours.root) == "UNAVAILABLE"
        assert await outcome(address, ours.root, theirs.issued("mallory")) == "UNAVAILABLE"
        assert await outcome(address, ours.root, clients.issued("olivia")) == "OK"


async def test_plain_text_does_not_pass_for_tls(settings: Settings, files: Files) -> None:
    files.hold(Authority("ours"))
    async with serving(settings, files) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_files_that_cannot_be_read_stop_the_start(settings: Settings, files: Files) -> None:
    """Rather than a server that speaks to nobody."""
    with pytest.raises(OSError, match=r"server\.(key|crt)"):
        async with serving(settings, files):
            pass
