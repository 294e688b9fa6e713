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

    def __init__(self, certificate_file: Path, key_file: Path, settings: TlsSettings, section: str) -> None:
        """`section` is where the settings stand. Raises ConfigError where the files do not hold what they should."""
        self._certificate = certificate_file, key_file
        self._client_ca_file = settings.client_ca_file
        self._required = settings.client_certificates == "required"
        self._stamp = self._look()
        try:
            self.context, self._newest = self._load(), self._load()
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"{section}: certificate_file, key_file or client_ca_file cannot be used: {exc}; all are PEM, and "
                "the key is that of the first certificate"
            ) from exc
        # A listening socket keeps its context, and a context its authorities: each handshake takes the newest one.
        self.context.sni_callback = self._take_newest

    @classmethod
    def from_settings(cls, settings: TlsSettings, section: str) -> "ServerTls | None":
        """None where the settings ask for plain HTTP; raises ConfigError, naming `section`, where they contradict."""
        if settings.certificate_file and settings.key_file:
            return cls(settings.certificate_file, settings.key_file, settings, section)
        if settings != TlsSettings():
            raise ConfigError(f"{section}: certificate_file and key_file belong together, and the others need both")
        return None

    async def watch(self) -> None:
        """Take over a new certificate with its key, and new authorities of clients. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            stamp = self._look()
            if stamp == self._stamp:
                continue
            try:
                self._newest = self._load()
            except (OSError, ssl.SSLError) as exc:
                log.warning("the new certificate, key or client_ca_file is not taken over yet", error=str(exc))
            else:
                log.info("certificates read again", file=str(self._certificate[0]))
            self._stamp = stamp

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(*self._certificate)
        if self._client_ca_file:
            context.load_verify_locations(self._client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED if self._required else ssl.CERT_OPTIONAL
            # A session that is resumed shows no certificate again: it would outlive an authority that was taken away.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        return context

    def _take_newest(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        stamps: list[tuple[int, int] | None] = []
        for file in (*self._certificate, *([self._client_ca_file] if self._client_ca_file else [])):
            try:
                stat = file.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((stat.st_mtime_ns, stat.st_ino))
        return tuple(stamps)
