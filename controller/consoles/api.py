"""The machine API over HTTP: from a request of the front proxy to the launcher in the machine's pod.

The front proxy is believed: the API server has authenticated the caller and asked RBAC for the resource, such as
`virtualmachines/console` of the group, before it passed the request on.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from controller.api.errors import ObjectName, StatusError, conflict, not_found, unknown_path
from controller.api.resource import MACHINE, POD
from controller.consoles.front_proxy import FrontProxy
from controller.consoles.paths import GROUP, GROUP_VERSION, LOG, PORT_FORWARD, ROOT, SUBRESOURCES
from controller.launcher.spec import STATUS_PORT, machine_identity
from controller.machines.last_output import last_output
from controller.machines.pod import active_pod_name, machine_uid
from controller.relay import RefusedError, UnreachableError, Upstream, new_session, pass_on
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.access.errors import CredentialsError
from dvcr.errors import DvcrError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 504: "Timeout"}
_USER: web.RequestKey[str] = web.RequestKey("user", str)
log = structlog.get_logger(__name__)


def build_app(
    cluster: ClusterPort, launcher_tls: Callable[[], ssl.SSLContext], front_proxy: Callable[[], FrontProxy]
) -> web.Application:
    """The application; `launcher_tls` is the controller's TLS towards launchers, `front_proxy` what is known of it."""
    api = _MachineApi(cluster, launcher_tls)
    app = web.Application(middlewares=[_errors, _only_front_proxy(front_proxy)])
    app.cleanup_ctx.append(api.session)
    place = ROOT + f"/namespaces/{{namespace}}/{MACHINE.plural}/{{name}}"
    app.router.add_get(ROOT, _resources)
    app.router.add_get(place + "/{subresource}", api.attach)
    app.router.add_get(place + "/{subresource}/{port}", api.attach)
    return app


def find_pod(cluster: ClusterPort, namespace: str, name: str) -> Object:
    """The pod that runs the machine. Raises StatusError: 404 for no such machine, 409 with its phase if it is off."""
    machine = cluster.get(MACHINE, name, namespace)
    if machine is None:
        raise not_found(_about(name))
    pod = cluster.get(POD, active_pod_name(machine), namespace)
    status = (pod or {}).get("status") or {}
    if (
        pod is None
        or machine_uid(pod) != machine["metadata"]["uid"]
        or status.get("phase") != "Running"
        or not status.get("podIP")
    ):
        phase = (machine.get("status") or {}).get("phase") or "Pending"
        raise conflict(_about(name), f"the machine is not running, its phase is {phase}")
    return pod


class _MachineApi:
    def __init__(self, cluster: ClusterPort, launcher_tls: Callable[[], ssl.SSLContext]) -> None:
        self._cluster = cluster
        self._launcher_tls = launcher_tls

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        async with new_session() as self._session:
            yield

    async def attach(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        subresource, port = request.match_info["subresource"], request.match_info.get("port")
        if subresource not in SUBRESOURCES or (port is not None) != (subresource == PORT_FORWARD):
            raise unknown_path()
        # They become parts of other paths, which must not lead elsewhere than the one that was authorised.
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise not_found(_about(name))
        try:
            pod = await asyncio.to_thread(find_pod, self._cluster, namespace, name)
        except StatusError as exc:
            if subresource != LOG or exc.code != 409:
                raise
            output = await asyncio.to_thread(last_output, self._cluster, namespace, name)
            if output is None:
                raise
            return web.Response(body=output, content_type="text/plain", charset="utf-8")
        upstream = await asyncio.to_thread(
            self._launcher, pod, request, f"{subresource}/{port}" if port else subresource
        )
        log.info("machine accessed", user=request[_USER], how=subresource, namespace=namespace, machine=name)
        try:
            return await pass_on(request, self._session, upstream)
        except RefusedError as exc:
            reason = _REASONS.get(exc.status, "InternalError")
            raise StatusError(exc.status, reason, exc.body.decode(errors="replace").strip()) from exc
        except UnreachableError as exc:
            message = f"the launcher of virtual machine {name!r} does not answer: {exc.message}"
            raise StatusError(503, "ServiceUnavailable", message) from exc

    def _launcher(self, pod: Object, request: web.Request, path: str) -> Upstream:
        address = pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        query = f"?{request.query_string}" if request.query_string else ""
        # A pod's address is not in its certificate: the machine's name is.
        url = f"https://{host}:{STATUS_PORT}/{path}{query}"
        return Upstream(url, self._launcher_tls(), machine_identity(machine_uid(pod)))


async def _resources(_: web.Request) -> web.Response:
    """What discovery asks."""
    entries = [
        {
            "name": f"{MACHINE.plural}/{name}",
            "singularName": "",
            "namespaced": True,
            "kind": MACHINE.kind,
            "verbs": ["get"],
        }
        for name in SUBRESOURCES
    ]
    listed = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": entries}
    return web.json_response(listed)


def _only_front_proxy(front_proxy: Callable[[], FrontProxy]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request[_USER] = front_proxy().user(request)
        except CredentialsError as exc:
            raise StatusError(401, "Unauthorized", exc.message) from exc
        return await handler(request)

    return check


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StatusError as exc:
        error = exc
    except web.HTTPNotFound:
        error = unknown_path()
    except web.HTTPException as exc:
        error = StatusError(exc.status, exc.reason.replace(" ", ""), exc.text or exc.reason)
    except DvcrError as exc:
        log.warning("request failed", path=request.path, error=exc.message)
        error = StatusError(503 if exc.retryable else 500, exc.reason, exc.message)
    return web.json_response(error.status(), status=error.code)


def _about(name: str) -> ObjectName:
    return ObjectName(GROUP, MACHINE.plural, MACHINE.kind, name)
