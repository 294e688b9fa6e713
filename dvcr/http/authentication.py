"""Every request through one door: who is it, may they; and the challenge for those who have not said who they are."""

import asyncio
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.access.authority import Authority
from dvcr.access.caller import ANONYMOUS, Caller
from dvcr.access.certificates import certificate_caller
from dvcr.access.errors import CredentialsError
from dvcr.access.header import Bearer, Password, challenge, parse_authorization
from dvcr.access.policy import EVERY_REPOSITORY, Policy
from dvcr.access.scope import CATALOG, Action, Scope, repository_scope
from dvcr.config import AccessSettings
from dvcr.http.errors import BadRequestError, wire_error
from dvcr.http.state import repository_of

log = structlog.get_logger(__name__)

TOKEN_PATH = "/token"  # noqa: S105  a path
# Anyone may see these: they show nothing of what is stored. The token endpoint asks for credentials itself.
OPEN = frozenset({"/healthz", "/readyz", "/metrics", TOKEN_PATH})
_ACTIONS = {"GET": Action.PULL, "HEAD": Action.PULL, "DELETE": Action.DELETE}
_SESSION = "/v2/{name}/blobs/uploads/{upload}"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")

# bcrypt is meant to be slow: guesses wait for each other, not for the storage's threads; too many are sent away.
_AUTHENTICATING_THREADS = 2
_MAX_WAITING = 128


class BusyError(Exception):
    """Too many credentials are being checked."""


class Rights:
    """What one request may do."""

    def __init__(self, policy: Policy, caller: Caller) -> None:
        self._policy = policy
        self._caller = caller

    def may(self, repository: str, action: Action) -> bool:
        """Whether the request may do this to the repository."""
        return self._policy.allows(self._caller, repository, action)

    def may_list(self, repository: str) -> bool:
        """Whether the catalog shows the repository."""
        return self._policy.lists(self._caller, repository)

    def mount_sources(self, repository: str) -> Iterable[str] | None:
        """Where a blob that is mounted without `from` may come from; None for anywhere.

        A token's holder: the repositories that the token is for. The others are not searched, however many there are.
        """
        if self._policy.pulls_everything(self._caller):
            return None
        names = dict.fromkeys((repository, *(scope.name for scope in self._caller.scopes or ())))
        return [name for name in names if self.may(name, Action.PULL)]


class Unlimited(Rights):
    """Everything: the registry asks nobody who they are."""

    def __init__(self) -> None:
        pass

    def may(self, repository: str, action: Action) -> bool:
        return True

    def may_list(self, repository: str) -> bool:
        return True

    def mount_sources(self, repository: str) -> Iterable[str] | None:
        return None


_UNLIMITED = Unlimited()
_RIGHTS = web.RequestKey("rights", Rights)
USER = web.RequestKey("user", str)


def rights_of(request: web.Request) -> Rights:
    """What the request may do."""
    rights: Rights = request.get(_RIGHTS, _UNLIMITED)
    return rights


class Authentication:
    """The door of one application."""

    def __init__(self, authority: Authority, settings: AccessSettings) -> None:
        self.authority = authority
        self._settings = settings
        self._threads = ThreadPoolExecutor(_AUTHENTICATING_THREADS, "authentication")
        self._waiting = 0

    async def caller_of(self, request: web.Request) -> Caller:
        """Who makes the request: by its Authorization, else by its client certificate, else nobody in particular.

        Raises CredentialsError for credentials that are not good, and BusyError.
        """
        text = request.headers.get("Authorization")
        if text is not None:
            return await self.authenticate(parse_authorization(text))
        certificate = request.get_extra_info("peercert")
        return certificate_caller(certificate) if certificate else ANONYMOUS

    async def authenticate(self, credentials: Password | Bearer) -> Caller:
        """The caller with these credentials; raises CredentialsError or BusyError."""
        caller = self.authority.recall(credentials)
        if caller is not None:
            return caller
        if self._waiting >= _MAX_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self.authority.authenticate, credentials
            )
        finally:
            self._waiting -= 1

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let the request through with its rights, or answer 401 with a challenge, 403, or 429."""
        resource = request.match_info.route.resource
        if resource is None or resource.canonical in OPEN:  # no such route: the router says so
            return await handler(request)
        wanted = wanted_scope(request)
        try:
            caller = await self.caller_of(request)
        except CredentialsError as exc:
            log.info("credentials refused", remote=request.remote, error=exc.message)
            return self._unauthorized(request, exc.message, wanted, "invalid_token")
        except BusyError:
            return busy("too many passwords are being checked")
        request[USER] = caller.user
        refusal = self._refuse(request, caller, wanted, administrative=resource.canonical.startswith("/admin/"))
        if refusal is not None:
            return refusal
        request[_RIGHTS] = Rights(self.authority.policy, caller)
        return await handler(request)

    def realm(self, request: web.Request) -> str:
        """The address of the token endpoint, as this client reaches it."""
        if self._settings.external_url:
            return self._settings.external_url.rstrip("/") + TOKEN_PATH
        if not _HOST.fullmatch(request.host):
            raise BadRequestError("the Host header names no host")
        # Said by a proxy that ends TLS, else by nobody but this client about itself.
        behind_tls = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower() == "https"
        return f"{'https' if behind_tls else request.scheme}://{request.host}{TOKEN_PATH}"

    async def close(self, _app: web.Application) -> None:
        """End the threads, and with them what still waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _refuse(
        self, request: web.Request, caller: Caller, wanted: Scope | None, *, administrative: bool
    ) -> web.Response | None:
        policy = self.authority.policy
        if administrative:
            if policy.is_admin(caller):
                return None
        elif wanted is None:
            # GET /v2/: "may I come in?". Nobody in particular fetches a token first, as for everything else.
            if caller != ANONYMOUS:
                return None
        elif wanted == CATALOG:
            if policy.may_list(caller):
                return None
        elif all(policy.allows(caller, wanted.name, Action(action)) for action in wanted.actions):
            return None
        if not caller.user and caller.scopes is None:
            return self._unauthorized(request, "say who you are: log in to the registry", wanted)
        if caller.scopes is not None and wanted is not None:
            user = replace(caller, scopes=None)
            if not caller.user or policy.granted(user, wanted) == wanted:
                # Another token, or another user, may do: the client is to ask for one.
                return self._unauthorized(request, f"the token is not for {wanted}", wanted, "insufficient_scope")
        return wire_error(
            403, "DENIED", f"{caller.user or 'somebody unknown'} may not do this: {wanted or request.path}"
        )

    def _unauthorized(self, request: web.Request, message: str, wanted: Scope | None, error: str = "") -> web.Response:
        shown = challenge(
            "Bearer",
            realm=self.realm(request),
            service=self._settings.service,
            scope=" ".join(map(str, _challenged(request, wanted))) if wanted else "",
            error=error,
        )
        return wire_error(401, "UNAUTHORIZED", message, {"WWW-Authenticate": shown})


def busy(message: str) -> web.Response:
    """429: come again in a second."""
    return wire_error(429, "TOOMANYREQUESTS", message, {"Retry-After": "1"})


def wanted_scope(request: web.Request) -> Scope | None:
    """What the request is about to do; None for nothing in particular. Raises NameInvalidError."""
    resource = request.match_info.route.resource
    canonical = resource.canonical if resource else ""
    if canonical == "/v2/_catalog":
        return CATALOG
    if "name" not in request.match_info:
        return None
    action = _ACTIONS.get(request.method, Action.PUSH)
    if canonical == _SESSION:
        action = Action.PUSH  # a session is looked at and given up by who may fill it
    return repository_scope(repository_of(request), action)


def _challenged(request: web.Request, wanted: Scope) -> list[Scope]:
    """What a client should ask a token for: who pushes first looks what is there, and may keep that one token."""
    looks = request.method == "HEAD" and "digest" in request.match_info
    if not looks and Action.PUSH not in wanted.actions:
        return [wanted]
    scopes = [repository_scope(wanted.name, Action.PULL, Action.PUSH)]
    if "mount" in request.query:
        source = request.query.get("from", EVERY_REPOSITORY)
        scopes.append(repository_scope(source, Action.PULL))
    return scopes
