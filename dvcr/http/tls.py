"""TLS, with certificates that may change while the registry runs."""

import asyncio
import ssl
from pathlib import Path

import structlog

from dvcr.config import TlsSettings
from dvcr.errors import ConfigError

log = structlog.get_logger(__name__)

_LOOK_INTERVAL_S = 1.0


class ServerTls:
    """The TLS context of a server. Connections that are open keep what they began with."""

    def __init__(self, certificate_file: Path, key_file: Path, settings: TlsSettings) -> None:
        """Raises ConfigError where the files do not hold what they should."""
        self._files = certificate_file, key_file
        self._stamp = self._look()
        try:
            self.context = _context()
            self.context.load_cert_chain(certificate_file, key_file)
            if settings.client_ca_file:
                self.context.load_verify_locations(settings.client_ca_file)
                required = settings.client_certificates == "required"
                self.context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"registry.tls: certificate, key or client_ca_file cannot be used: {exc}") from exc

    @classmethod
    def from_settings(cls, settings: TlsSettings) -> "ServerTls | None":
        """None where the settings ask for plain HTTP; raises ConfigError where they contradict each other."""
        if settings.certificate_file and settings.key_file:
            return cls(settings.certificate_file, settings.key_file, settings)
        if settings != TlsSettings():
            raise ConfigError("registry.tls: certificate_file and key_file belong together, and the others need both")
        return None

    async def watch(self) -> None:
        """Take over a new certificate and key whenever both are there. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            stamp = self._look()
            if stamp == self._stamp:
                continue
            try:
                # A pair that does not fit would leave the context without either: tried on another one first.
                _context().load_cert_chain(*self._files)
                self.context.load_cert_chain(*self._files)
            except (OSError, ssl.SSLError) as exc:
                log.warning("the new certificate is not taken over yet", error=str(exc))
            else:
                log.info("certificate read again", file=str(self._files[0]))
            self._stamp = stamp

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        stamps: list[tuple[int, int] | None] = []
        for file in self._files:
            try:
                stat = file.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((stat.st_mtime_ns, stat.st_ino))
        return tuple(stamps)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
