"""GET of a URL as a download needs it: hop by hop, each of them checked, secrets only to the server they are for."""

import fcntl
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.auth import _basic_auth_str

from dvcr.client.auth import Header
from dvcr.client.cancellation import AnswerTimeoutError, Cancellation
from dvcr.client.session import UnfollowingSession
from dvcr.client.transport import cause_of
from dvcr.config import ImporterSettings
from dvcr.errors import SourceError, StorageError
from dvcr.jobs.job import HttpOrigin
from importer.sources.addresses import AddressGuard, GuardedAdapter

MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class BrokenError(Exception):
    """This connection brings no more; the next one may."""

    def __init__(self, message: str, reason: str = "", after_s: float = 0) -> None:
        super().__init__(message)
        self.reason = reason
        """For the SourceError, where this goes on until the import is given up."""
        self.after_s = after_s
        """How long the server wants to be left alone before."""


def shown(url: str) -> str:
    """The URL for messages and records: without user, password, query and fragment, which may be secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class HttpRequests:
    """Requests for one origin, over connections that are kept. Safe from many threads."""

    def __init__(self, origin: HttpOrigin, settings: ImporterSettings, cancellation: Cancellation) -> None:
        """SourceError where the origin's certificates cannot be used, or its URL is none."""
        self._cancellation = cancellation
        self._timeout_s = settings.idle_timeout_s
        self._whole_timeout_s = settings.slow_timeout_s
        self._downgrade = settings.redirect_to_http
        try:
            self._url, authorization = _split_user(origin)
            self.shown = shown(self._url)
        except ValueError as exc:
            raise SourceError(f"the URL cannot be read ({exc}); use http://HOST/PATH or https://HOST/PATH") from exc
        self._auth = Header(authorization)
        self._headers = {name: value.get_secret_value() for name, value in origin.headers.items()}
        self._session = UnfollowingSession()
        adapter = GuardedAdapter(AddressGuard(settings.source_addresses), pool_maxsize=settings.connections + 1)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        # Checksums are over the bytes as they are kept, not as a server may pack them for the way.
        self._session.headers["Accept-Encoding"] = "identity"
        self._certificates = _certificates(origin, settings.scratch_dir)
        # Given with every request: a session's own `verify` gives way to REQUESTS_CA_BUNDLE in the environment.
        self._verify = self._certificates.name if self._certificates else not origin.insecure_skip_verify

    @contextmanager
    def get(self, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """The answer at the end of the redirects; its body was not read yet.

        Raises BrokenError for what the next attempt may bring, SourceError for what it will not, RequestCancelledError;
        also for what happens to the body inside the block.
        """
        with self._translated(), self._follow(headers) as response:
            yield response

    def close(self) -> None:
        """Give up the connections."""
        self._session.close()
        if self._certificates is not None:
            self._certificates.close()

    @contextmanager
    def _follow(self, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            ours = _trusts(self._url, url)
            ask = partial(
                self._session.get,
                url,
                headers={**(self._headers if ours else {}), **headers},
                auth=self._auth if ours else Header(None),  # in either case ~/.netrc is left alone
                stream=True,
                timeout=self._timeout_s,
                verify=self._verify,
                allow_redirects=False,
            )
            response = self._answer(ask)
            target = self._session.get_redirect_target(response) if response.status_code in _REDIRECTS else None
            if target is None:
                with response:
                    yield response
                return
            response.close()
            url = self._next(url, target)
        raise SourceError(f"{self.shown} redirects more than {MAX_REDIRECTS} times", reason="SourceRedirects")

    def _answer(self, ask: Callable[[], requests.Response]) -> requests.Response:
        """The head of an answer, which a server may also send a byte at a time."""
        try:
            return self._cancellation.run(ask, requests.Response.close, self._whole_timeout_s)
        except AnswerTimeoutError as exc:
            message = f"the server did not even send the head of an answer within {self._whole_timeout_s:g} s"
            raise BrokenError(message, reason="SourceTooSlow") from exc

    def _next(self, url: str, target: str) -> str:
        following = urlsplit(urljoin(url, target))
        where = shown(following.geturl())
        if following.scheme not in _DEFAULT_PORTS or not following.hostname:
            message = f"{self.shown} redirects to {where}, which is no http:// or https:// address"
            raise SourceError(message, reason="SourceRedirects")
        if urlsplit(url).scheme == "https" and following.scheme == "http" and not self._downgrade:
            raise SourceError(
                f"{self.shown} redirects from https to {where}, where anybody on the way could change the bytes; "
                "use another address, or set importer.redirect_to_http",
                reason="SourceRedirects",
            )
        return urlunsplit(following._replace(netloc=following.netloc.rpartition("@")[2], fragment=""))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one place where errors of requests become ours. Their texts hold URLs: only causes are told."""
        try:
            yield
        except requests.exceptions.SSLError as exc:
            raise SourceError(
                f"the certificate of {self.shown} is not trusted ({cause_of(exc)}); give its authority in caBundle "
                "(--ca-file)",
                reason="SourceUntrusted",
            ) from exc
        except requests.exceptions.ProxyError as exc:
            raise BrokenError(f"the proxy does not let it through: {cause_of(exc)}") from exc
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as exc:
            raise self._silent() from exc
        except requests.exceptions.ConnectionError as exc:
            raise (self._silent() if _timed_out(exc) else BrokenError(cause_of(exc))) from exc
        except (requests.exceptions.RequestException, UnicodeError) as exc:
            raise SourceError(f"{self.shown} is no address that can be fetched ({type(exc).__name__})") from exc
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise BrokenError(cause_of(exc)) from exc

    def _silent(self) -> BrokenError:
        return BrokenError(f"the server sent nothing for {self._timeout_s:g} s", reason="SourceTimeout")


def _split_user(origin: HttpOrigin) -> tuple[str, str | None]:
    """The URL without its user and password, and the Authorization that they or the origin's own make."""
    parts = urlsplit(origin.url)
    username = origin.username or unquote(parts.username or "")
    password = origin.password.get_secret_value() or unquote(parts.password or "")
    url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url, _basic_auth_str(username, password) if username or password else None


def _trusts(first: str, other: str) -> bool:
    """Whether what is meant for the server of `first` may go to `other`: the same one, or the same with TLS now."""
    return _server(first) == _server(other) or (
        _server(first)[0] == "http" and _server(other) == ("https", _server(first)[1], 443) and _server(first)[2] == 80
    )


def _server(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _certificates(origin: HttpOrigin, folder: Path) -> IO[bytes] | None:
    """The trusted certificates as the file that requests asks for."""
    if origin.insecure_skip_verify or not origin.ca_bundle:
        return None
    return certificate_file(origin.ca_bundle, folder)


def certificate_file(ca_bundle: str, folder: Path) -> IO[bytes]:
    """A file of these PEM certificates, gone when it is closed; SourceError where they are none, StorageError.

    It is locked: what a process has left that was killed is recognized by `sweep`.
    """
    try:
        ssl.create_default_context(cadata=ca_bundle)
    except (ssl.SSLError, ValueError) as exc:
        raise SourceError(f"caBundle holds no PEM certificates: {exc}", reason="SourceUntrusted") from exc
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=folder, prefix="ca-", suffix=".pem")  # noqa: SIM115 (closed by who asked for it)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(ca_bundle.encode())
        file.flush()
    except OSError as exc:
        raise StorageError(f"cannot use {folder} (importer.scratch_dir): {exc.strerror}") from exc
    return file


def _timed_out(exc: BaseException) -> bool:
    return any(isinstance(cause, urllib3.exceptions.ReadTimeoutError | TimeoutError) for cause in _causes(exc))


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
