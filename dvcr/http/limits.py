"""How much one client gets at the same time."""

from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.http.authentication import busy

_UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics"})


class ClientLimit:
    """At most `max_requests` under way for one address; more are answered 429. Probes and metrics are not counted."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._under_way: Counter[str] = Counter()

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count the request while it is under way, or send it away."""
        client = request.remote or ""
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in _UNCOUNTED:
            return await handler(request)
        under_way = self._under_way.get(client, 0)
        if under_way >= self._max_requests:
            return busy(f"{self._max_requests} requests of {client} are under way already")
        self._under_way[client] = under_way + 1
        try:
            return await handler(request)
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]
