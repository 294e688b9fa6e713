"""HTTP to one registry: one session, one place where foreign errors become RegistryError."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from tempfile import NamedTemporaryFile
from typing import IO, Any, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from dvcr.client.auth import Authenticator, Header, IssuedToken, Query
from dvcr.client.cancellation import Cancellation, RequestCancelledError, shut_down
from dvcr.client.credentials import Credentials, Source
from dvcr.client.retry import BusyError, RetryPolicy, TellRetry
from dvcr.client.session import RegistrySession, drain
from dvcr.errors import RegistryError

# Room for two imports that push in parallel, a reader with its read-ahead, and some calls of a controller.
POOL_CONNECTIONS = 32
CONNECT_TIMEOUT_S = 10.0
PIECE_BYTES = 2**20
_MAX_ERROR_BYTES = 64 * 2**10
_MAX_JSON_BYTES = 8 * 2**20
_CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NAME_UNKNOWN",
    405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}


class Transport:
    """Requests to the registry at `base_url`. Thread-safe.

    Every failure is a RegistryError: connections that cannot be made or break are retryable with code UNAVAILABLE,
    answers that refuse carry the registry's own code.
    """

    def __init__(
        self,
        base_url: str,
        *,
        username: str = "",
        password: str = "",
        credentials: Source | None = None,
        ca_file: str | None = None,
        ca_pem: str = "",
        insecure_skip_verify: bool = False,
        timeout_s: float = 60,
        retry: RetryPolicy | None = None,
        adapter: HTTPAdapter | None = None,
    ) -> None:
        """`credentials` are asked for again and again, in place of one user name and password. With an `adapter`, that
        one makes the connections."""
        self.base_url = base_url.rstrip("/")
        self.retry = retry or RetryPolicy()
        self.session = RegistrySession()
        adapter = adapter or HTTPAdapter(pool_connections=4, pool_maxsize=POOL_CONNECTIONS)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self.session.headers.update({"User-Agent": f"dvcr/{version('dvcr')}", "Accept-Encoding": "identity"})
        if insecure_skip_verify:
            # Whoever asked for this knows; a line on standard error for each request tells nothing new.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # requests takes files only; this one lives as long as the transport, and those that are made of it.
        self._certificates = _as_file(ca_pem) if ca_pem else None
        if self._certificates is not None:
            ca_file = self._certificates.name
        self._verify: str | bool = False if insecure_skip_verify else ca_file or True
        self._timeout_s = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        given = Credentials(username, password)
        self._auth = Authenticator(self.base_url, credentials or (lambda: given), self._fetch_token)
        self._sleep = self.retry.sleep
        self._cancellation: Cancellation | None = None

    def on_behalf_of(self, cancellation: Cancellation, on_retry: TellRetry | None = None) -> Self:
        """The same connections and logins, for an undertaking that may be cancelled, and is told what is tried again.

        Once cancelled, all that is asked raises RequestCancelledError, at once and also in the middle of it.
        """
        other = copy.copy(self)
        other._cancellation = cancellation
        sleep = partial(_sleep, cancellation, self._sleep)
        other.retry = replace(self.retry, sleep=sleep, on_retry=on_retry or self.retry.on_retry)
        return other

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        expect: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        discard: Callable[[requests.Response], None] = requests.Response.close,
    ) -> Iterator[requests.Response]:
        """The open answer to one request; its body was not read yet. RegistryError unless its status is in `expect`.

        `url` is relative to the registry or absolute. One attempt, and one more where the registry asks for
        authorization; `retry` is for the caller, who knows what may be repeated. Errors while the body is read inside
        the block are translated as well. `discard` gets, and closes, the answer to a request that was cancelled.
        """
        where = f"{method} {urlsplit(url).path}"
        ask = partial(self._ask, method, urljoin(self.base_url + "/", url), scope, headers, query, body)
        with _translated(where, self.base_url):
            response = self._cancellation.run(ask, discard) if self._cancellation else ask()
            with response, self._cancelled_with(response):
                if response.status_code not in expect:
                    raise _refusal(where, response)
                yield response
                if self._cancellation is not None:
                    try:
                        self._cancellation.check()  # what was read may end where it was cancelled
                    except RequestCancelledError:
                        discard(response)
                        raise
                drain(response)

    def json(self, url: str, *, scope: str) -> tuple[Any, str | None]:
        """The JSON answer to a GET, and the address of the next page if there is one."""
        with self.request("GET", url, scope=scope) as response:
            value = _parse(f"GET {url}", read_at_most(response, _MAX_JSON_BYTES))
            following = response.links.get("next", {}).get("url")
            return value, urljoin(response.url, following) if following else None

    def issue_token(self, scopes: Sequence[str], life_s: int) -> IssuedToken | None:
        """A token for `scopes` and nothing else, for somebody else to show; None where the registry issues none."""
        url = f"{self.base_url}/v2/"
        with _translated("GET /v2/", self.base_url), self._send("GET", url, None, None, None, b"") as response:
            if response.status_code not in (200, 401):
                raise _refusal("GET /v2/", response)
            drain(response)
            challenge = response.headers.get("WWW-Authenticate", "") if response.status_code == 401 else ""
        return self._auth.issue(challenge, scopes, life_s)

    @contextmanager
    def _cancelled_with(self, response: requests.Response) -> Iterator[None]:
        with self._cancellation.waking(partial(shut_down, response)) if self._cancellation else nullcontext():
            yield

    def _ask(
        self,
        method: str,
        url: str,
        scope: str,
        headers: Mapping[str, str] | None,
        query: Mapping[str, str] | None,
        body: bytes,
    ) -> requests.Response:
        """The answer, whatever it is; asked a second time where the registry wants authorization."""
        authorized = self._same_origin(url)
        used = self._auth.header(scope) if authorized else None
        response = self._send(method, url, used, headers, query, body)
        if response.status_code == 401 and authorized:
            drain(response)
            used = self._auth.challenged(response, scope, used)
            response = self._send(method, url, used, headers, query, body)
        return response

    def _send(
        self,
        method: str,
        url: str,
        authorization: str | None,
        headers: Mapping[str, str] | None,
        query: Query | None,
        body: bytes,
    ) -> requests.Response:
        return self.session.request(
            method,
            url,
            params=query,
            data=body,
            headers=headers,
            auth=Header(authorization),
            timeout=self._timeout_s,
            verify=self._verify,
            stream=True,
        )

    def _fetch_token(self, realm: str, query: Query, authorization: str | None) -> Mapping[str, object]:
        where = f"GET {realm}"

        def ask() -> Any:
            with (
                _translated(where, realm),
                self._send("GET", realm, authorization, None, query, b"") as response,
            ):
                if response.status_code != 200:
                    raise _refusal(where, response)
                return _parse(where, read_at_most(response, _MAX_ERROR_BYTES))

        answer = self.retry.run(ask)
        return answer if isinstance(answer, dict) else {}

    def _same_origin(self, url: str) -> bool:
        ours, theirs = urlsplit(self.base_url), urlsplit(url)
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def read_at_most(response: requests.Response, limit_bytes: int) -> bytes:
    """The whole body; RegistryError where it is longer than `limit_bytes`."""
    body = read_up_to(response, limit_bytes + 1)
    if len(body) > limit_bytes:
        raise RegistryError(
            f"{response.url} answers with more than {limit_bytes} bytes", code="SIZE_INVALID", retryable=False
        )
    return body


def read_up_to(response: requests.Response, limit_bytes: int) -> bytes:
    """The body, cut after `limit_bytes`."""
    pieces: list[bytes] = []
    missing = limit_bytes
    for piece in response.iter_content(PIECE_BYTES):
        pieces.append(piece[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _sleep(cancellation: Cancellation, sleep: Callable[[float], None], seconds: float) -> None:
    cancellation.run(partial(sleep, seconds))


@contextmanager
def _translated(where: str, server: str) -> Iterator[None]:
    """The one place where errors of `requests` become ours."""
    try:
        yield
    except requests.exceptions.SSLError as exc:
        raise RegistryError(
            f"{where}: no trusted connection to {server}: {exc}; is client.ca_file right?",
            code="UNAVAILABLE",
            status=503,
            reason="RegistryUntrusted",
            retryable=False,
        ) from exc
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
    ) as exc:
        raise RegistryError(
            f"{where}: the registry {server} does not answer: {cause_of(exc)}",
            code="UNAVAILABLE",
            status=503,
            reason="RegistryUnavailable",
            retryable=True,
        ) from exc
    except requests.exceptions.RequestException as exc:
        raise RegistryError(f"{where}: {exc}", retryable=False) from exc


def cause_of(exc: BaseException) -> str:
    """The innermost explanation: requests and urllib3 wrap it two or three times, in texts that hold whole URLs."""
    while exc.__context__ is not None and str(exc.__context__):
        exc = exc.__context__
    return str(exc) or type(exc).__name__


def _parse(where: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise RegistryError(f"{where}: the answer is not JSON: {exc}; is this a registry?", retryable=False) from exc


def _refusal(where: str, response: requests.Response) -> RegistryError:
    status = response.status_code
    code, message = _CODES.get(status, "UNKNOWN"), response.reason or ""
    try:
        first = json.loads(read_up_to(response, _MAX_ERROR_BYTES))["errors"][0]
        code, message = str(first["code"]), str(first.get("message") or message)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass  # no body in the form of the distribution-spec; the status says enough
    text = f"{where}: {status} {code}: {message}"
    if status == 401:
        host = urlsplit(response.url).netloc
        text += f"; log in with client.username and client.password, at other registries with `docker login {host}`"
    after = response.headers.get("Retry-After", "")
    # 409: another request writes to the upload session, or one whose server died holds it a little longer.
    if status in (409, 429, 503) and after.isdecimal():
        return BusyError(text, code=code, status=status, retry_after_s=float(after))
    return RegistryError(text, code=code, status=status, reason="RegistryDenied" if status in (401, 403) else None)


def _as_file(text: str) -> IO[str]:
    """A file with this text, which is removed when nobody has it any more."""
    file = NamedTemporaryFile("w", prefix="dvcr-ca-", suffix=".pem")  # noqa: SIM115
    file.write(text)
    file.flush()
    return file
