"""Sessions of `requests` that follow redirects with care, or not at all, and look for proxies once."""

import os
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from itertools import count
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.sessions import merge_setting
from requests.utils import get_environ_proxies, requote_uri

from dvcr.errors import RegistryError

MAX_REDIRECTS = 10
_MAX_DRAINED_BYTES = 64 * 2**10


class _Session(requests.Session):
    """Looks for a host's proxy in the environment once; `requests` does so for each request, at much of its cost.

    What changes there later concerns only hosts that were not asked yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[tuple[str | None, int | None, str | None], dict[str, str]] = {}

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """What `requests` asks before each request."""
        if self.trust_env:
            given = proxies or {}
            proxies = given | {k: v for k, v in self._found_for(url, given.get("no_proxy")).items() if k not in given}
            if verify is True or verify is None:
                verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or verify
        settings = {"proxies": proxies, "stream": stream, "verify": verify, "cert": cert}
        # As requests does with what was given; its stubs say nothing of this function.
        return {name: merge_setting(value, getattr(self, name)) for name, value in settings.items()}  # type: ignore[no-untyped-call]

    def _found_for(self, url: str, no_proxy: str | None) -> dict[str, str]:
        parts = urlsplit(url)
        key = parts.hostname, parts.port, no_proxy
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = get_environ_proxies(url, no_proxy=no_proxy)
        return found


class UnfollowingSession(_Session):
    """Gives redirects as they are, and closed; long bodies of theirs are not read.

    `requests` reads them whole, into memory and however long they are: also where it was told not to follow, for
    `Response.next`, which is not set here.
    """

    def resolve_redirects(self, resp: requests.Response, req: requests.PreparedRequest, *_: Any, **__: Any) -> Any:
        """What `requests` asks after each answer."""
        if resp.is_redirect:
            drain(resp)
        return iter(())


class RegistrySession(_Session):
    """Keeps no cookies, follows at most ten redirects and none from https to http, and leaves ~/.netrc alone.

    Authorization goes to the server that it is for: `requests` drops it where a redirect leads elsewhere. Long bodies
    of redirects are not read: they may be endless.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def resolve_redirects(  # type: ignore[override]  # all but the first two come by name
        self,
        resp: requests.Response,
        req: requests.PreparedRequest,
        yield_requests: bool = False,
        proxies: Any = None,
        **how: Any,
    ) -> Iterator[requests.Response]:
        """The answers after `resp`. `requests` does this, too, but reads the body of each redirect on the way."""
        for followed in count():
            following = None if yield_requests else self._following(resp, req)
            if following is None:
                return
            if followed == self.max_redirects:
                raise requests.TooManyRedirects(f"more than {self.max_redirects} redirects", response=resp)
            req = following
            proxies = self.rebuild_proxies(req, proxies)  # type: ignore[no-untyped-call]
            resp = self.send(req, allow_redirects=False, proxies=proxies, **how)
            yield resp

    def _following(
        self, answer: requests.Response, before: requests.PreparedRequest
    ) -> requests.PreparedRequest | None:
        """The request that a redirect asks for; None where the answer is no redirect."""
        try:
            target = self.get_redirect_target(answer)
            if target is None:
                return None
            drain(answer)
            request = before.copy()
            request.url = urljoin(answer.url, requote_uri(target))
            self.rebuild_method(request, answer)
            if answer.status_code not in (requests.codes.temporary_redirect, requests.codes.permanent_redirect):
                request.body = None
                for header in ("Content-Length", "Content-Type", "Transfer-Encoding"):
                    request.headers.pop(header, None)
            self.rebuild_auth(request, answer)
        except ValueError as exc:
            answer.close()
            raise requests.exceptions.InvalidURL(f"the redirect leads to no address: {exc}", response=answer) from exc
        return request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """RegistryError where the redirect is refused; `requests` would look into ~/.netrc here."""
        before, after = str(response.request.url), str(prepared_request.url)
        if urlsplit(before).scheme == "https" and urlsplit(after).scheme != "https":
            host = urlsplit(after).hostname
            raise RegistryError(
                f"{urlsplit(before).netloc} redirects from https to http://{host}, where anybody on the way could "
                "read and change what is sent; refused",
                code="DENIED",
                reason="RegistryRedirects",
                retryable=False,
            )
        if self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


def drain(response: requests.Response) -> None:
    """Close an answer that is done with; read what is left of it before where that is known to be short.

    A connection is only used again once its answer was read to the end.
    """
    length = response.headers.get("Content-Length", "")
    short = response.status_code == 204 or (length.isdecimal() and int(length) <= _MAX_DRAINED_BYTES)
    # A Transfer-Encoding overrules the length.
    if response.request.method == "HEAD" or (short and "Transfer-Encoding" not in response.headers):
        response.raw.drain_conn()
    response.close()
