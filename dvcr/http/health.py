"""Is it there, is it well."""

from aiohttp import web

from dvcr.http.errors import wire_error
from dvcr.http.state import STATE


async def api_version(_request: web.Request) -> web.Response:
    """GET /v2/: this is a registry (distribution-spec, "Determining Support")."""
    headers = {"Content-Type": "application/json", "Docker-Distribution-API-Version": "registry/2.0"}
    return web.Response(body=b"{}", headers=headers)


async def alive(_request: web.Request) -> web.Response:
    """GET /healthz: the process answers."""
    return web.Response(text="ok\n")


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: the storage takes writes; otherwise the error says what it lacks. Not while the server ends."""
    state = request.app[STATE]
    if state.drain.has_begun:
        return wire_error(503, "UNAVAILABLE", "the server is about to end")
    await state.run(state.registry.check)
    return web.Response(text="ok\n")
