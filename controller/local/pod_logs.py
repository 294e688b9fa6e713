"""Containers' logs, which are asked of the agent of the pod's node, as of a kubelet."""

import aiohttp
from aiohttp import web

from controller.api.errors import StatusError, bad_request
from controller.local.store import Image, Key, Stored


class PodLogs:
    """Passes logs on. Made inside a running event loop."""

    def __init__(self) -> None:
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=10))

    async def close(self) -> None:
        await self._client.close()

    async def serve(self, request: web.Request, image: Image, stored: Stored) -> web.StreamResponse:
        """Answer with the log of a container of the pod. Raises StatusError, 503 where the agent cannot be reached."""
        pod, name = stored.obj, stored.key.name
        names = [each["name"] for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])]
        container = request.query.get("container") or names[-1]
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        node_name = pod["spec"].get("nodeName")
        if not node_name:
            raise bad_request(f'pod "{name}" does not have a host assigned')
        url = f"{_agent_url(image, node_name)}/containerLogs/{stored.key.namespace}/{name}/{container}"
        query = [(key, value) for key, value in request.query.items() if key != "container"]
        try:
            # As kube-apiserver does: a node's certificate is its own.
            async with self._client.get(url, params=query, ssl=False) as upstream:
                if upstream.status >= 400:
                    raise StatusError(upstream.status, "BadRequest", await upstream.text())
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                await response.prepare(request)
                async for chunk in upstream.content.iter_any():
                    await response.write(chunk)
        except aiohttp.ClientConnectionError as exc:
            message = f"the agent of node {node_name} does not answer: {exc}"
            raise StatusError(503, "ServiceUnavailable", message) from exc
        await response.write_eof()
        return response


def _agent_url(image: Image, node_name: str) -> str:
    node = image.get(Key("nodes", "", node_name))
    status = (node.obj.get("status") or {}) if node else {}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
    addresses = [each["address"] for each in status.get("addresses") or () if each["type"] == "InternalIP"]
    if not port or not addresses:
        raise StatusError(503, "ServiceUnavailable", f"node {node_name} has no agent that serves logs")
    return f"https://{addresses[0]}:{port}"
