"""The API over HTTP: authentication, and paths to operations."""

import asyncio
from datetime import timedelta
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controller.api import errors
from controller.api.errors import StatusError
from controller.local import aggregation, discovery, eviction, lifecycle
from controller.local.aggregation import Aggregator
from controller.local.authentication import DEFAULT_TOKEN_LIFETIME, SERVICE_ACCOUNTS, Authenticator, User
from controller.local.authorization import Action, is_allowed, refusal
from controller.local.definition import definitions, find
from controller.local.impersonation import acting
from controller.local.patch import APPLY_PATCH, apply_patch
from controller.local.pod_logs import PodLogs
from controller.local.representation import answer, answer_list, read_continue, write_continue
from controller.local.request import (
    ResourcePath,
    body,
    content_type,
    delete_options,
    dry_run,
    field_manager,
    flag,
    number,
    object_body,
    selection,
)
from controller.local.review import ABOUT_ONESELF, is_review, review
from controller.local.store import Store, Stored
from controller.local.watch import check_version
from controller.local.watch_streams import WatchStreams
from controller.relay import new_session
from dvcr.errors import DvcrError

_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/livez", "/version"})
_RETURNED_WHEN_DELETED = frozenset({"pods", "persistentvolumes", "persistentvolumeclaims", "serviceaccounts"})
_MAX_BODY_BYTES = 4 * 2**20
_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_MIN_TOKEN_LIFETIME = timedelta(minutes=10)
_USER: web.RequestKey[User] = web.RequestKey("user", User)
_OPENAPI_V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_log = structlog.get_logger(__name__)


def build_app(store: Store, authenticator: Authenticator, aggregator: Aggregator) -> web.Application:
    """The application over a started store."""
    api = _Api(store, authenticator, aggregator)
    middlewares = [_errors, _authentication(store, authenticator)]
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=middlewares)
    app.router.add_route("*", "/{path:.*}", api.handle)
    app.on_startup.append(api.start)
    app.on_shutdown.append(api.stop)
    app.on_cleanup.append(api.close)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StatusError as exc:
        error = exc
    except web.HTTPRequestEntityTooLarge:
        error = StatusError(413, "RequestEntityTooLarge", f"the body is larger than {_MAX_BODY_BYTES} bytes")
    except web.HTTPException as exc:
        error = StatusError(exc.status, exc.reason.replace(" ", ""), exc.text or exc.reason)
    except DvcrError as exc:
        _log.error("request failed", path=request.path, error=exc.message)
        error = StatusError(500, "InternalError", exc.message)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as exc:  # noqa: BLE001 - the client gets a Status, the log gets the traceback
        _log.exception("request failed", path=request.path)
        error = StatusError(500, "InternalError", f"Internal error occurred: {exc!r}")
    headers = {"WWW-Authenticate": "Bearer"} if error.code == 401 else {}
    if retry_after_s := (error.details or {}).get("retryAfterSeconds"):
        headers["Retry-After"] = str(retry_after_s)
    return web.json_response(error.status(), status=error.code, headers=headers)


def _authentication(store: Store, authenticator: Authenticator) -> Middleware:
    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _OPEN_PATHS:
            user = authenticator.user(store.image, request.headers.get("Authorization", ""))
            if user is None:
                raise StatusError(401, "Unauthorized", "Unauthorized")
            request[_USER] = acting(store.image, user, request.headers)
        return await handler(request)

    return authenticate


class _Api:
    def __init__(self, store: Store, authenticator: Authenticator, aggregator: Aggregator) -> None:
        self._store = store
        self._authenticator = authenticator
        self._aggregator = aggregator
        self._watches = WatchStreams(store)

    async def start(self, app: web.Application) -> None:
        self._logs = PodLogs()
        self._aggregated = new_session()

    async def stop(self, app: web.Application) -> None:
        self._watches.stop()

    async def close(self, app: web.Application) -> None:
        await self._logs.close()
        await self._aggregated.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path in ("/healthz", "/readyz", "/livez"):
            return web.Response(text="ok")
        if (place := ResourcePath.parse(path)) is not None:
            user = request[_USER]
            action = _action(request, place)
            asks = request.method == "POST" and is_review(place.group, place.version, place.plural)
            # Everybody may ask about themselves. Whether there is a thing is for those to know who may see it.
            if not (asks and place.plural in ABOUT_ONESELF) and not is_allowed(self._store.image, user, action):
                raise refusal(user, action)
            if asks:
                answer = review(self._store.image, user, place.plural, await object_body(request))
                return web.json_response(answer, status=201)
            if (service := aggregation.find_service(self._store.image, place.group, place.version)) is not None:
                return await self._pass_on(request, service)
            return await self._resource(request, place)
        match path.strip("/").split("/"):
            case ["apis", group, version] if service := aggregation.find_service(self._store.image, group, version):
                return await self._pass_on(request, service)
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed()
        return self._document(request)

    async def _pass_on(self, request: web.Request, service: Stored) -> web.StreamResponse:
        return await self._aggregator.pass_on(request, self._aggregated, self._store.image, service, request[_USER])

    def _document(self, request: web.Request) -> web.Response:
        path = request.path.rstrip("/")
        served = definitions(self._store.image)
        elsewhere = aggregation.aggregated(self._store.image)
        if path == "/openapi/v2" and "protobuf" in request.headers.get("Accept", ""):
            # An empty message is an empty document.
            return web.Response(body=b"", content_type=_OPENAPI_V2_PROTOBUF)
        match path.split("/")[1:]:
            case ["version"]:
                return web.json_response(discovery.VERSION)
            case ["api"]:
                return web.json_response(discovery.core_versions())
            case ["apis"]:
                return web.json_response(discovery.groups(served, elsewhere))
            case ["apis", group]:
                return web.json_response(discovery.group(served, elsewhere, group))
            case ["api", version]:
                return web.json_response(discovery.resources(served, "", version))
            case ["apis", group, version]:
                return web.json_response(discovery.resources(served, group, version))
            case ["openapi", "v2"]:
                return web.json_response(discovery.openapi_v2())
            case ["openapi", "v3"]:
                return web.json_response(discovery.openapi_v3_index(served))
            case ["openapi", "v3", *rest]:
                return web.json_response(discovery.openapi_v3(served, "/".join(rest)))
        raise errors.unknown_path()

    async def _resource(self, request: web.Request, path: ResourcePath) -> web.StreamResponse:
        if path.rest:
            raise errors.unknown_path()
        definition = find(self._store.image, path.group, path.version, path.plural)
        if definition is None or (path.namespace and not definition.namespaced):
            raise errors.unknown_path()
        target = lifecycle.Target(
            definition,
            path.namespace,
            path.name,
            strict=request.query.get("fieldValidation") == "Strict",
            user=request[_USER],
            manager=field_manager(request),
        )
        if not path.name:
            match request.method:
                case "GET" if flag(request, "watch"):
                    return await self._watches.serve(request, definition, path.namespace)
                case "GET":
                    return self._list(request, target)
                case "POST":
                    return await self._create(request, target)
                case "DELETE":
                    return await self._delete_collection(request, target)
            raise errors.method_not_allowed()
        if definition.namespaced and not path.namespace:
            raise errors.unknown_path()
        match request.method, path.subresource:
            case "GET", "log" if definition.resource == "pods":
                return await self._logs.serve(request, self._store.image, self._get(target))
            case "POST", "token" if definition.resource == SERVICE_ACCOUNTS:
                return await self._token(request, target)
            case "POST", "binding" if definition.resource == "pods":
                return await self._bind(request, target)
            case "POST", "eviction" if definition.resource == "pods":
                return await self._evict(request, target)
            case "GET", "" | "status":
                return answer(request, definition, self._get(target))
            case (("PUT" | "PATCH"), ""):
                return await self._update(request, target, "")
            case (("PUT" | "PATCH"), "status") if definition.has_status:
                return await self._update(request, target, "status")
            case "DELETE", "":
                return await self._delete(request, target)
        raise errors.unknown_path() if path.subresource else errors.method_not_allowed()

    def _get(self, target: lifecycle.Target) -> Stored:
        stored = self._store.image.get(target.key)
        if stored is None:
            raise errors.not_found(target.about)
        return stored

    def _list(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        definition, image = target.definition, self._store.image
        matches = selection(request, definition)
        found = [each for each in image.of(target.key.resource, target.namespace) if not matches or matches(each.obj)]
        version = image.version
        limit = number(request, "limit") or 0
        if token := request.query.get("continue"):
            version, last = read_continue(token)
            check_version(self._store, target.key.resource, version)
            found = [each for each in found if [each.key.namespace, each.key.name] > last]
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            metadata["remainingItemCount"] = len(found) - limit
            found = found[:limit]
            metadata["continue"] = write_continue(version, found[-1].key)
        return answer_list(request, definition, found, metadata)

    async def _create(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        obj = await object_body(request)
        if target.definition.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        stored = await self._store.write(lambda tx: lifecycle.create(tx, target, obj), dry_run=dry_run(request))
        return answer(request, target.definition, stored, 201, target.warnings)

    async def _update(self, request: web.Request, target: lifecycle.Target, part: str) -> web.Response:
        if request.method == "PUT":
            obj = await object_body(request)
            lifecycle.require_name(target, obj.get("metadata") or {})

            def change(old: dict[str, Any]) -> dict[str, Any]:
                if target.definition.custom and not (obj.get("metadata") or {}).get("resourceVersion"):
                    detail = "Invalid value: 0x0: must be specified for an update"
                    raise errors.invalid(target.about, [errors.FieldCause("metadata.resourceVersion", detail)])
                return obj
        elif content_type(request) == APPLY_PATCH:
            return await self._apply(request, target, part)
        else:
            patch, kind = await body(request), content_type(request)

            def change(old: dict[str, Any]) -> dict[str, Any]:
                return apply_patch(old, patch, kind, custom=target.definition.custom)

        stored = await self._store.write(
            lambda tx: lifecycle.update(tx, target, change, part=part), dry_run=dry_run(request)
        )
        return answer(request, target.definition, stored, warnings=target.warnings)

    async def _apply(self, request: web.Request, target: lifecycle.Target, part: str) -> web.Response:
        config, force = await body(request), flag(request, "force")
        if not isinstance(config, dict):
            raise errors.bad_request("what is applied must be an object")
        if not request.query.get("fieldManager"):
            about = errors.ObjectName("meta.k8s.io", "", "PatchOptions")
            raise errors.invalid(about, [errors.FieldCause.required("fieldManager", "is required for apply patch")])
        stored, made = await self._store.write(
            lambda tx: lifecycle.apply(tx, target, config, part=part, force=force), dry_run=dry_run(request)
        )
        return answer(request, target.definition, stored, 201 if made else 200, target.warnings)

    async def _delete(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        options = await delete_options(request)
        dry = dry_run(request) or bool(options.get("dryRun"))
        stored, gone = await self._store.write(lambda tx: lifecycle.delete(tx, target, options), dry_run=dry)
        # These kinds are answered with themselves, as by a real API server; typed clients insist on it.
        if not gone or target.definition.resource in _RETURNED_WHEN_DELETED:
            return answer(request, target.definition, stored, warnings=target.warnings)
        details = {**target.about.details(), "uid": stored.uid}
        return web.json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    async def _delete_collection(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        options = await delete_options(request)
        matches = selection(request, target.definition)
        dry = dry_run(request) or bool(options.get("dryRun"))
        found = self._store.image.of(target.key.resource, target.namespace)
        deleted = [each for each in found if matches is None or matches(each.obj)]
        for each in deleted:
            one = lifecycle.Target(target.definition, each.key.namespace, each.key.name)
            try:
                await self._store.write(lambda tx, one=one: lifecycle.delete(tx, one, options), dry_run=dry)  # type: ignore[misc]
            except StatusError as exc:
                if exc.code != 404:
                    raise
        metadata = {"resourceVersion": str(self._store.image.version)}
        return answer_list(request, target.definition, deleted, metadata)

    async def _bind(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        binding = await object_body(request)
        await self._store.write(lambda tx: lifecycle.bind(tx, target, binding), dry_run=dry_run(request))
        return web.json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, status=201
        )

    async def _token(self, request: web.Request, target: lifecycle.Target) -> web.StreamResponse:
        asked = await object_body(request)
        account = self._get(target).obj
        spec = asked.get("spec") or {}
        lifetime = timedelta(seconds=spec.get("expirationSeconds") or DEFAULT_TOKEN_LIFETIME.total_seconds())
        if lifetime < _MIN_TOKEN_LIFETIME:
            raise errors.bad_request("spec.expirationSeconds: may not specify a duration less than 10 minutes")
        token, expires = self._authenticator.issue(account, lifetime)
        status = {"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        answer = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec, "status": status}
        return web.json_response(
            {**answer, "metadata": {"name": target.name, "namespace": target.namespace}}, status=201
        )

    async def _evict(self, request: web.Request, target: lifecycle.Target) -> web.Response:
        wanted = await object_body(request)
        refusal = await self._store.write(lambda tx: eviction.evict(tx, target, wanted), dry_run=dry_run(request))
        if refusal is not None:
            raise refusal
        return web.json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, status=201
        )


def _action(request: web.Request, path: ResourcePath) -> Action:
    """What RBAC is asked."""
    verb = _VERBS.get(request.method, request.method.lower())
    if verb == "get" and flag(request, "watch"):
        verb = "watch"
    elif not path.name:
        verb = {"get": "list", "delete": "deletecollection"}.get(verb, verb)
    resource = f"{path.plural}/{path.subresource}" if path.subresource else path.plural
    return Action(verb, path.group, resource, path.namespace, path.name)
