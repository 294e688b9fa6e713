"""The client on real sockets: TLS, silence, nobody there."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import urllib3.util.connection
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dvcr.client.cancellation import Cancellation
from dvcr.client.registry import RegistryClient
from dvcr.client.retry import RetryPolicy
from dvcr.client.transport import Transport
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from dvcr.errors import RegistryError


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the base class's
        pass


@contextmanager
def tls_registry(certificate: Path, key: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    certificate, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def test_a_registry_with_a_private_authority(certificate: tuple[Path, Path]) -> None:
    with tls_registry(*certificate) as url:
        RegistryClient.from_settings(ClientSettings(url=url, ca_file=certificate[0])).ping()


def test_a_private_authority_that_is_no_file(certificate: tuple[Path, Path]) -> None:
    with tls_registry(*certificate) as url:
        settings = ClientSettings(url=url, ca_pem=certificate[0].read_text())
        RegistryClient.from_settings(settings).on_behalf_of(Cancellation()).ping()


def test_an_authority_that_is_not_trusted_names_the_setting(certificate: tuple[Path, Path]) -> None:
    with tls_registry(*certificate) as url, pytest.raises(RegistryError, match=r"client\.ca_file") as caught:
        RegistryClient.from_settings(ClientSettings(url=url)).ping()
    assert (caught.value.reason, caught.value.retryable) == ("RegistryUntrusted", False)


def test_a_ca_file_that_holds_none(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    with tls_registry(*certificate) as url, pytest.raises(RegistryError, match=r"client\.ca_file"):
        RegistryClient.from_settings(ClientSettings(url=url, ca_file=empty)).ping()


def test_nobody_there() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        client = RegistryClient.from_settings(ClientSettings(url=f"http://127.0.0.1:{bound.getsockname()[1]}"))
        with pytest.raises(RegistryError) as caught:
            client.ping()
    assert (caught.value.reason, caught.value.retryable) == ("RegistryUnavailable", True)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_a_registry_that_falls_silent(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def answer() -> None:
            connection, _ = server.accept()
            accepted.append(connection)
            connection.recv(4096)
            connection.sendall(sent)

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        client = RegistryClient(Transport(url, timeout_s=0.2, retry=RetryPolicy(attempts=1)))
        with pytest.raises(RegistryError) as caught:
            next(client.repositories()) if sent else client.ping()
        thread.join()
        accepted[0].close()
    assert caught.value.reason == "RegistryUnavailable"


def test_connections_are_used_again(registry_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    connect = urllib3.util.connection.create_connection

    def counted(*arguments: Any, **options: Any) -> socket.socket:
        opened.append(arguments)
        return connect(*arguments, **options)

    monkeypatch.setattr("urllib3.util.connection.create_connection", counted)
    repository = RegistryClient(Transport(registry_url)).repository("connections")
    for number in range(5):
        data = b"%d" % number
        repository.has_blob(Digest.of(data))
        repository.push_blob(Digest.of(data), data)
        assert repository.read_blob(Digest.of(data), 0, 1) == data
        upload = repository.begin_upload()
        upload.append(data)
        upload.refresh()
        upload.abort()
        repository.tags()
        repository.delete_blob(Digest.of(data))
        with pytest.raises(RegistryError):
            repository.read_blob(Digest.of(data))
    assert len(opened) == 1
