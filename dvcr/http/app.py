"""The registry's HTTP application: every route."""

from aiohttp import web

from dvcr.access.authority import Authority
from dvcr.config import AccessSettings, RegistrySettings
from dvcr.http import admin, blobs, health, listings, manifests, uploads
from dvcr.http.authentication import TOKEN_PATH, Authentication
from dvcr.http.body import end_uninvited, put_off_invitation
from dvcr.http.errors import translate_errors
from dvcr.http.limits import ClientLimit
from dvcr.http.observe import Observer
from dvcr.http.silence import limit_silence
from dvcr.http.state import STATE, State
from dvcr.http.tokens import TokenEndpoint
from dvcr.registry.registry import Registry

NAME = "/v2/{name:.+}"


def build_app(
    registry: Registry,
    settings: RegistrySettings,
    authority: Authority | None = None,
    access: AccessSettings | None = None,
) -> web.Application:
    """The application over `registry`. It owns no background work; `dvcr.http.server` adds it.

    Without an `authority` everybody may do everything.
    """
    state = State(registry, settings)
    observer = Observer(state.metrics)
    limit = ClientLimit(settings.max_client_requests)
    app = web.Application(middlewares=[state.drain.count, observer.observe, translate_errors, limit.admit])
    if authority is not None:
        access = access or AccessSettings()
        authentication = Authentication(authority, access)
        endpoint = TokenEndpoint(authentication, access)
        app.middlewares.append(authentication.admit)
        app.on_cleanup.append(authentication.close)
        app.add_routes(
            [web.get(TOKEN_PATH, endpoint.get), web.post(TOKEN_PATH, endpoint.post, expect_handler=put_off_invitation)]
        )
    app[STATE] = state
    app[health.READINESS] = health.Readiness(lambda: state.run(registry.check))
    app.on_response_prepare.extend([observer.add_request_id, state.drain.end_connection, end_uninvited, limit_silence])
    put_off = {"expect_handler": put_off_invitation}
    app.add_routes(
        [
            # Names with slashes make aiohttp try one pattern after the other: what is asked for most comes first.
            web.head(NAME + "/blobs/{digest}", blobs.head),
            web.get(NAME + "/blobs/{digest}", blobs.get, allow_head=False),
            web.delete(NAME + "/blobs/{digest}", blobs.delete),
            web.get(NAME + "/manifests/{reference}", manifests.get),
            web.put(NAME + "/manifests/{reference}", manifests.put, **put_off),
            web.delete(NAME + "/manifests/{reference}", manifests.delete),
            web.get("/healthz", health.alive),
            web.get("/readyz", health.ready),
            web.get("/metrics", state.metrics.show),
            web.post("/admin/collect", admin.collect),
            web.get("/v2/", health.api_version),
            web.get("/v2", health.api_version),
            web.get("/v2/_catalog", listings.catalog),
            web.post(NAME + "/blobs/uploads/", uploads.begin, **put_off),
            web.post(NAME + "/blobs/uploads", uploads.begin, **put_off),
            web.get(NAME + "/blobs/uploads/{upload}", uploads.status, allow_head=False),
            web.patch(NAME + "/blobs/uploads/{upload}", uploads.append, **put_off),
            web.put(NAME + "/blobs/uploads/{upload}", uploads.commit, **put_off),
            web.delete(NAME + "/blobs/uploads/{upload}", uploads.abort),
            web.get(NAME + "/tags/list", listings.tags),
            web.get(NAME + "/referrers/{digest}", listings.referrers),
        ]
    )
    return app
