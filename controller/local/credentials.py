"""Who may talk to the cluster: its certificate authority, the server's certificate, the token, and the kubeconfig.

TLS is not a luxury here: kubectl and client-go never send a token over plain HTTP. Everything is made at the first
start and kept in one folder; keys and the token are readable by their owner only.
"""

import base64
import os
import secrets
import socket
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from controller.certificates import Authority, KeyPair, covers, lifetime_left

LIFETIME = timedelta(days=3650)
_RENEW_BELOW = 0.01
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - names what to replace


@dataclass(frozen=True)
class Credentials:
    """The token that every request needs, the CA that clients trust, and the server's certificate and key."""

    token: str
    ca_file: Path
    certificate_file: Path
    key_file: Path
    signing_key: bytes
    """Signs the tokens of ServiceAccounts."""

    @classmethod
    def load(cls, folder: Path, host: str) -> "Credentials":
        """The credentials in `folder`; what is missing is made, as is a server certificate that does not fit `host`."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        token_file, signing_key_file = folder / "token", folder / "service-accounts.key"
        for file in (token_file, signing_key_file):
            if not file.exists():
                write_private(file, secrets.token_urlsafe(32).encode())
        made = cls(
            token_file.read_text(),
            folder / "ca.crt",
            folder / "server.crt",
            folder / "server.key",
            signing_key_file.read_bytes(),
        )
        ca_key_file = folder / "ca.key"
        if not made.ca_file.exists():
            authority = Authority.create("dvcr-ca", datetime.now(UTC))
            write_private(ca_key_file, authority.pair.key)
            write_private(made.ca_file, authority.pair.certificate)
            made.certificate_file.unlink(missing_ok=True)
        names = _names(host)
        if not _fits(made.certificate_file, names):
            authority = Authority(KeyPair(made.ca_file.read_bytes(), ca_key_file.read_bytes()))
            server = authority.issue("dvcr-cluster", names, datetime.now(UTC), LIFETIME, server=True, client=False)
            write_private(made.key_file, server.key)
            write_private(made.certificate_file, server.certificate)
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


def _names(host: str) -> set[str]:
    return {"localhost", "127.0.0.1", "::1", socket.gethostname(), _ANYWHERE.get(host, host)}


def _fits(certificate_file: Path, names: set[str]) -> bool:
    if not certificate_file.exists():
        return False
    certificate = certificate_file.read_bytes()
    return lifetime_left(certificate, datetime.now(UTC)) > _RENEW_BELOW and covers(certificate, names)
