"""The user's side of the machine API."""

from collections.abc import Iterator, Mapping

import aiohttp

from controller.consoles.paths import LOG, SCREENSHOT, machine_path
from controller.relay import RefusedError, Upstream, connect
from controller.runtime.cluster import Cluster
from controller.runtime.errors import error_from


class MachineClient:
    """One machine, through the cluster's API. Errors are ClusterErrors: 403, 404, 409 with the machine's phase, ..."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name

    async def open(
        self, session: aiohttp.ClientSession, subresource: str, port: int | None = None
    ) -> aiohttp.ClientWebSocketResponse:
        """A websocket to the machine; the session is one of `controller.relay`. UnreachableError without an API."""
        path = machine_path(self._namespace, self._name, subresource, port)
        access = self._cluster.access(path)
        upstream = Upstream(access.url, access.tls, access.server_name, tuple(access.headers.items()), access.proxy)
        try:
            return await connect(session, upstream)
        except RefusedError as exc:
            raise error_from(exc.status, exc.body, path) from exc

    def log(self, *, follow: bool, previous: bool) -> Iterator[bytes]:
        """The serial log as it arrives."""
        query = {"follow": follow, "previous": previous}
        return self._download(LOG, {name: "true" for name, wanted in query.items() if wanted})

    def screenshot(self) -> bytes:
        """What the machine's screen shows, as PNG."""
        return b"".join(self._download(SCREENSHOT, {}))

    def _download(self, subresource: str, query: Mapping[str, str]) -> Iterator[bytes]:
        return self._cluster.download(machine_path(self._namespace, self._name, subresource), query)
