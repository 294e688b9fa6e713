"""The webhooks over HTTP."""

import asyncio
import json
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from controller.api.errors import StatusError
from controller.webhooks.review import AdmissionRequest, answer
from controller.webhooks.rules import Rules
from dvcr.errors import DvcrError

VALIDATE, EVICT = "/validate", "/evict"
# The API server's own limit for a request (3 MiB) holds for the object; a change brings two.
MAX_BODY_BYTES = 8 * 2**20

log = structlog.get_logger(__name__)


def build_app(rules: Rules) -> web.Application:
    """The application. Where a rule cannot be judged it answers 500, and the webhook's failure policy decides."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.router.add_post(VALIDATE, _handler(rules.validate))
    app.router.add_post(EVICT, _handler(rules.evict))
    return app


def _handler(judge: Callable[[AdmissionRequest], StatusError | None]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await asyncio.to_thread(answer, await request.json(), judge))
        except json.JSONDecodeError as exc:
            return web.Response(status=400, text=f"no JSON: {exc}")
        except StatusError as exc:
            return web.json_response(exc.status(), status=exc.code)
        except DvcrError as exc:
            log.warning("a request cannot be judged", why=exc.message)
            return web.Response(status=500, text=exc.message)

    return handle
