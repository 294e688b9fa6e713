"""The registry's HTTP application: every route."""

from aiohttp import web

from dvcr.config import RegistrySettings
from dvcr.http import blobs, health, listings, manifests, uploads
from dvcr.http.errors import translate_errors
from dvcr.http.observe import Observer
from dvcr.http.state import STATE, State
from dvcr.registry.registry import Registry

NAME = "/v2/{name:.+}"


def build_app(registry: Registry, settings: RegistrySettings) -> web.Application:
    """The application over `registry`. It owns no background work; `dvcr.http.server` adds it."""
    observer = Observer()
    app = web.Application(middlewares=[observer.observe, translate_errors])
    app[STATE] = State(registry, settings)
    app.on_response_prepare.append(observer.add_request_id)
    app.add_routes(
        [
            web.get("/healthz", health.alive),
            web.get("/readyz", health.ready),
            web.get("/metrics", observer.show),
            web.get("/v2/", health.api_version),
            web.get("/v2", health.api_version),
            web.get("/v2/_catalog", listings.catalog),
            web.post(NAME + "/blobs/uploads/", uploads.begin),
            web.post(NAME + "/blobs/uploads", uploads.begin),
            web.get(NAME + "/blobs/uploads/{upload}", uploads.status, allow_head=False),
            web.patch(NAME + "/blobs/uploads/{upload}", uploads.append),
            web.put(NAME + "/blobs/uploads/{upload}", uploads.commit),
            web.delete(NAME + "/blobs/uploads/{upload}", uploads.abort),
            web.head(NAME + "/blobs/{digest}", blobs.head),
            web.get(NAME + "/blobs/{digest}", blobs.get, allow_head=False),
            web.delete(NAME + "/blobs/{digest}", blobs.delete),
            web.get(NAME + "/manifests/{reference}", manifests.get),
            web.put(NAME + "/manifests/{reference}", manifests.put),
            web.delete(NAME + "/manifests/{reference}", manifests.delete),
            web.get(NAME + "/tags/list", listings.tags),
            web.get(NAME + "/referrers/{digest}", listings.referrers),
        ]
    )
    return app
