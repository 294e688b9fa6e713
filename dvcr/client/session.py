"""A session of `requests` that follows a registry's redirects with care."""

from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests

from dvcr.errors import RegistryError

MAX_REDIRECTS = 10


class RegistrySession(requests.Session):
    """Keeps no cookies, follows at most ten redirects and none from https to http, and leaves ~/.netrc alone.

    Authorization goes to the server that it is for: `requests` drops it where a redirect leads elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Before each redirect is followed: `requests` would look into ~/.netrc here. RegistryError."""
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
