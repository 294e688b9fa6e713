"""Who may talk to the cluster: its certificate authority, the server's certificate, the token, and the kubeconfig.

TLS is not a luxury here: kubectl and client-go never send a token over plain HTTP. Everything is made at the first
start and kept in one folder; keys and the token are readable by their owner only.
"""

import base64
import ipaddress
import os
import secrets
import socket
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=3650)
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - names what to replace


@dataclass(frozen=True)
class Credentials:
    """The token that every request needs, the CA that clients trust, and the server's certificate and key."""

    token: str
    ca_file: Path
    certificate_file: Path
    key_file: Path

    @classmethod
    def load(cls, folder: Path, host: str) -> "Credentials":
        """The credentials in `folder`; what is missing is made, as is a server certificate that does not fit `host`."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        token_file = folder / "token"
        if not token_file.exists():
            write_private(token_file, secrets.token_urlsafe(32).encode())
        made = cls(token_file.read_text(), folder / "ca.crt", folder / "server.crt", folder / "server.key")
        ca_key_file = folder / "ca.key"
        if not made.ca_file.exists():
            ca_key = ec.generate_private_key(ec.SECP256R1())
            write_private(ca_key_file, _pem(ca_key))
            write_private(made.ca_file, _authority(ca_key).public_bytes(serialization.Encoding.PEM))
            made.certificate_file.unlink(missing_ok=True)
        names = _names(host)
        if not _fits(made.certificate_file, names):
            key = ec.generate_private_key(ec.SECP256R1())
            ca_key = _read_key(ca_key_file)
            certificate = _server_certificate(made.ca_file, ca_key, key, names)
            write_private(made.key_file, _pem(key))
            write_private(made.certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return made

    def server_context(self) -> ssl.SSLContext:
        """TLS for the server's side."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate_file, self.key_file)
        return context

    def write_kubeconfig(self, path: Path, url: str) -> None:
        """Write a kubeconfig for the cluster at `url`: atomically, readable by the owner only."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "dvcr",
            "clusters": [
                {
                    "name": "dvcr",
                    "cluster": {
                        "server": url,
                        "certificate-authority-data": base64.b64encode(self.ca_file.read_bytes()).decode(),
                    },
                }
            ],
            "users": [{"name": "dvcr", "user": {"token": self.token}}],
            "contexts": [{"name": "dvcr", "context": {"cluster": "dvcr", "user": "dvcr", "namespace": "default"}}],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, yaml.safe_dump(content, sort_keys=False).encode())


def reachable_host(host: str) -> str:
    """The address by which clients on this machine reach a server that listens on `host`."""
    host = _ANYWHERE.get(host, host)
    return f"[{host}]" if ":" in host else host


def write_private(path: Path, content: bytes) -> None:
    """Replace a file's content in one step; readable by its owner only."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _names(host: str) -> set[str]:
    return {"localhost", "127.0.0.1", "::1", socket.gethostname(), _ANYWHERE.get(host, host)}


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _fits(certificate_file: Path, names: set[str]) -> bool:
    if not certificate_file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    covered = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    fresh = certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=30)
    return fresh and {_general_name(name) for name in names} <= covered


def _builder(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    builder = _builder("dvcr-ca", key)
    return (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dvcr-ca")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    ca_file: Path, ca_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey, names: set[str]
) -> x509.Certificate:
    authority = x509.load_pem_x509_certificate(ca_file.read_bytes())
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in sorted(names)])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder("dvcr-cluster", key)
        .issuer_name(authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
