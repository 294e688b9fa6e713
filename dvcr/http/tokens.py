"""The token endpoint (Docker token protocol, "Requesting a Token"; for POST its OAuth2 form)."""

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs

import structlog
from aiohttp import web

from dvcr.access.caller import Caller
from dvcr.access.errors import CredentialsError
from dvcr.access.header import Password, challenge
from dvcr.access.scope import parse_scopes
from dvcr.config import AccessSettings
from dvcr.http.authentication import Authentication, BusyError, busy
from dvcr.http.body import read_all
from dvcr.http.errors import BadRequestError, wire_error

log = structlog.get_logger(__name__)

_MAX_FORM_BYTES = 64 * 2**10
_MAX_FIELDS = 100
# More is no life of a token, but would be cut to what the settings allow.
_MAX_LIFE_S = 10**9


class TokenEndpoint:
    """Exchanges a password, a client certificate or nothing at all for a token with as much as the rules grant."""

    def __init__(self, authentication: Authentication, settings: AccessSettings) -> None:
        self._authentication = authentication
        self._settings = settings

    async def get(self, request: web.Request) -> web.Response:
        """GET: credentials in Authorization, `service`, `scope` and `expires_in` in the query."""
        try:
            caller = await self._authentication.caller_of(request)
        except CredentialsError as exc:
            return self._refuse(request, exc)
        except BusyError:
            return busy("too many passwords are being checked")
        if caller.scopes is not None:
            # Otherwise a token would live for ever, by being exchanged for the next one.
            return self._unauthorized("a token gets no other token: log in with a password or a certificate")
        query = request.query
        return self._answer(caller, query.get("service"), query.getall("scope", []), query.get("expires_in"))

    async def post(self, request: web.Request) -> web.Response:
        """POST: a form with `grant_type=password`, `username`, `password`, `service`, `scope`, `expires_in`."""
        body = await read_all(request, _MAX_FORM_BYTES)
        try:
            form = parse_qs(body.decode(), max_num_fields=_MAX_FIELDS)
        except ValueError as exc:
            raise BadRequestError("the body is no form") from exc
        if form.get("grant_type") != ["password"]:
            raise BadRequestError("only grant_type=password is known here")
        try:
            password = Password(form.get("username", [""])[0], form.get("password", [""])[0])
            caller = await self._authentication.authenticate(password)
        except CredentialsError as exc:
            return self._refuse(request, exc)
        except BusyError:
            return busy("too many passwords are being checked")
        service, life = (form.get(name, [None])[0] for name in ("service", "expires_in"))
        return self._answer(caller, service, form.get("scope", []), life)

    def _answer(self, caller: Caller, service: str | None, wanted: list[str], life: str | None) -> web.Response:
        if service not in (None, "", self._settings.service):
            raise BadRequestError(f"tokens are for service {self._settings.service!r} here")
        if life is not None and not (life.isdecimal() and 0 < int(life) <= _MAX_LIFE_S):
            raise BadRequestError("expires_in is the number of seconds that the token is to live")
        wanted_s = int(life) if life is not None else None
        policy, tokens = self._authentication.authority.policy, self._authentication.authority.tokens
        if not caller.user and not policy.knows_anonymous:
            return self._unauthorized("say who you are: log in to the registry")
        granted = [scope for text in parse_scopes(wanted) if (scope := policy.granted(caller, text)) is not None]
        token = tokens.issue(caller, granted, wanted_s)
        answer = {
            "token": token,
            "access_token": token,
            "expires_in": tokens.life_s(granted, wanted_s),
            "issued_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(map(str, granted)),
        }
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        return web.Response(body=json.dumps(answer).encode(), headers=headers)

    def _refuse(self, request: web.Request, exc: CredentialsError) -> web.Response:
        log.info("credentials refused", remote=request.remote, error=exc.message)
        return self._unauthorized(exc.message)

    def _unauthorized(self, message: str) -> web.Response:
        return wire_error(
            401, "UNAUTHORIZED", message, {"WWW-Authenticate": challenge("Basic", realm=self._settings.service)}
        )
