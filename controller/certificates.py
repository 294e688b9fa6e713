"""Certificate authorities of our own: one that is made at the first start, and what it issues. Keys are P-256."""

import ipaddress
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_LIFETIME = timedelta(days=3650)
# Clocks of two machines may differ.
_BACKDATE = timedelta(minutes=5)
_MAX_COMMON_NAME = 64
"""Of X.509. A Service's name may be longer: clients look for it among the alternatives."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key, both PEM; the key is not encrypted."""

    certificate: bytes
    key: bytes

    def client_context(self, authority: bytes) -> ssl.SSLContext:
        """TLS for a client that shows this certificate, and trusts servers of `authority` (PEM) only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=authority.decode())
        self._show(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """TLS for a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        # OpenSSL reads a key from a file only.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # made with mode 0600
            file.write(self.certificate + self.key)
            file.flush()
            context.load_cert_chain(file.name)


class Authority:
    """Issues certificates."""

    def __init__(self, pair: KeyPair) -> None:
        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        self._key = _read_key(pair.key)

    @classmethod
    def create(cls, name: str, now: datetime) -> Self:
        """A new authority, good for ten years from `now` on."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key, now, _AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _write_key(key)))

    def issue(
        self, name: str, alternatives: Iterable[str], now: datetime, lifetime: timedelta, *, server: bool, client: bool
    ) -> KeyPair:
        """A certificate for `name`, as server, client or both.

        `alternatives` are the DNS names and IP addresses that a server answers to.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        builder = _builder(self._certificate.subject, _name(name), key, now, lifetime)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([general_name(each) for each in sorted(alternatives)]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _write_key(key))


def lifetime_left(certificate: bytes, now: datetime) -> float:
    """What is left of a certificate's (PEM) lifetime, as a part of the whole; not above 0 once it has expired."""
    parsed = x509.load_pem_x509_certificate(certificate)
    return (parsed.not_valid_after_utc - now) / (parsed.not_valid_after_utc - parsed.not_valid_before_utc)


def covers(certificate: bytes, names: Iterable[str]) -> bool:
    """Whether the certificate (PEM) answers to all of these names."""
    parsed = x509.load_pem_x509_certificate(certificate)
    covered = set(parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    return {general_name(name) for name in names} <= covered


def general_name(name: str) -> x509.GeneralName:
    """An IP address as such, everything else as a DNS name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        # Means nothing for such keys, but QEMU 7.2 takes no certificate without it.
        key_encipherment=not signs,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:_MAX_COMMON_NAME])])


def _write_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
