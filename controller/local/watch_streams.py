"""Watches over HTTP: one line for each event, until the time is over, the client leaves, or the server stops."""

import asyncio
import random

from aiohttp import web

from controller.api.errors import FieldCause, ObjectName, StatusError, invalid
from controller.local.definition import Definition
from controller.local.representation import line
from controller.local.request import flag, included, number, rendering, selection
from controller.local.store import Store
from controller.local.watch import WatchRequest, check_version, error_event, watch


class WatchStreams:
    """The watches that clients have at the moment."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._streams: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """End them all."""
        for stream in self._streams:
            stream.cancel()

    async def serve(self, request: web.Request, definition: Definition, namespace: str) -> web.StreamResponse:
        """Answer with the events of a resource, in one namespace if it is not empty.

        Raises StatusError for what cannot be begun; what ends a watch later is its last line.
        """
        watched = self._wanted(request, definition, namespace)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        stream = asyncio.create_task(self._write(request, response, definition, watched))
        self._streams.add(stream)
        try:
            await asyncio.wait([stream])
            if not stream.cancelled() and (error := stream.exception()) is not None:
                raise error
        finally:
            stream.cancel()
            self._streams.discard(stream)
        await response.write_eof()
        return response

    def _wanted(self, request: web.Request, definition: Definition, namespace: str) -> WatchRequest:
        asked = request.query.get("resourceVersion", "")
        initial = flag(request, "sendInitialEvents")
        if "sendInitialEvents" in request.query and request.query.get("resourceVersionMatch") != "NotOlderThan":
            detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            cause = FieldCause.forbidden("resourceVersionMatch", detail)
            raise invalid(ObjectName("meta.k8s.io", "", "ListOptions"), [cause])
        version = None if initial or asked in ("", "0") else number(request, "resourceVersion")
        timeout_s = number(request, "timeoutSeconds") or random.randint(1800, 3600)
        if version is not None:
            check_version(self._store, definition.resource, version)
        return WatchRequest(
            definition.resource,
            namespace,
            selection(request, definition),
            version,
            timeout_s,
            bookmarks=flag(request, "allowWatchBookmarks"),
            initial_end_bookmark=initial,
        )

    async def _write(
        self, request: web.Request, response: web.StreamResponse, definition: Definition, watched: WatchRequest
    ) -> None:
        render, include = rendering(request), included(request)
        try:
            async for events in watch(self._store, watched):
                if lines := b"".join(line(event, definition, render, include) for event in events):
                    await response.write(lines)
        except StatusError as exc:
            await response.write(error_event(exc))
        except ConnectionError:
            # The client went away: nobody is left to tell.
            return
