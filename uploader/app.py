"""The upload service: one file a ticket, straight into the registry.

PUT  /upload/<token>   the file, with or without Content-Length; 201 once it is a blob of the registry
GET  /upload/<token>   how far it is, as JSON; HEAD: the same in the header Upload-Offset
GET  /healthz          200 while the service runs
"""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.client.registry import RegistryClient
from dvcr.config import UploaderSettings
from dvcr.errors import DvcrError
from dvcr.jobs.board import JobBoard
from uploader.receive import CutError, Receiver
from uploader.tickets import Reception, RefusedError, find

_THREADS = 32
log = structlog.get_logger(__name__)


def build_app(board: JobBoard, client: RegistryClient, settings: UploaderSettings) -> web.Application:
    """The service. Board and registry are called in threads of its own."""
    service = _Service(board, client, settings)
    app = web.Application(middlewares=[_errors])
    app.router.add_put("/upload/{token}", service.put, expect_handler=_wait_for_the_checks)
    app.router.add_get("/upload/{token}", service.get)
    app.router.add_get("/healthz", _healthz)
    app.on_cleanup.append(service.close)
    return app


class _Service:
    def __init__(self, board: JobBoard, client: RegistryClient, settings: UploaderSettings) -> None:
        self._board = board
        self._client = client
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, "uploader")

    async def close(self, _: web.Application) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def put(self, request: web.Request) -> web.StreamResponse:
        token = request.match_info["token"]
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        reception = await in_thread(Reception.begin, self._board, token, request.content_length)
        try:
            _continue(request)
            receiver = Receiver(reception, self._client, self._threads, self._settings.idle_timeout_s)
            digest, size_bytes = await receiver.receive(request.content)
        except BaseException as exc:
            message = exc.message if isinstance(exc, DvcrError) else "the upload was cut; upload again"
            log.warning("upload given up", repository=reception.ticket.repository, why=message)
            await in_thread(reception.give_up, message, self._settings.first_byte_timeout_s)
            raise
        await in_thread(reception.complete, digest, size_bytes)
        log.info("upload complete", repository=reception.ticket.repository, size_bytes=size_bytes)
        return web.json_response({"digest": str(digest), "receivedBytes": size_bytes}, status=201, dumps=_line)

    async def get(self, request: web.Request) -> web.StreamResponse:
        token = request.match_info["token"]
        ticket = await asyncio.get_running_loop().run_in_executor(self._threads, find, self._board, token)
        body = {"state": ticket.state, "receivedBytes": ticket.received_bytes, "totalBytes": ticket.total_bytes}
        headers = {"Upload-Offset": str(ticket.received_bytes), "Cache-Control": "no-store"}
        return web.json_response(body, headers=headers, dumps=_line)


async def _healthz(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")


async def _wait_for_the_checks(_: web.Request) -> None:
    """A client that asks `Expect: 100-continue` is answered by `_continue`, or refused before it sends the file."""


def _continue(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as error:
        return _plain(error.status, error.message)
    except CutError as error:
        return _plain(408, error.message)
    except DvcrError as error:
        log.exception("upload failed")
        return _plain(503 if error.retryable else 502, error.message)


def _line(value: object) -> str:
    # curl shows the answer as it is: the line ends, so that the prompt begins a new one.
    return json.dumps(value) + "\n"


def _plain(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=f"{message}\n")
