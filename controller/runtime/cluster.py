"""The Kubernetes API as the controller, the node agent and the `dvcr` verbs use it. Objects are plain dicts."""

import json
import ssl
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from kubernetes import client, config
from kubernetes.client.rest import should_bypass_proxies
from kubernetes.utils.keepalive import tcp_keepalive_socket_options
from urllib3.connection import HTTPConnection

from controller.api.resource import Resource
from controller.runtime.errors import (
    AlreadyExistsError,
    Cause,
    ClusterError,
    ConflictError,
    ExpiredError,
    InvalidError,
    MissingError,
    error_from,
)
from controller.runtime.index import Index, Object
from controller.runtime.informer import Informer, OnChange
from controller.runtime.stream import WatchResponse, decoded, pieces
from dvcr.errors import ConfigError

__all__ = [
    "AlreadyExistsError",
    "Cause",
    "Cluster",
    "ClusterError",
    "ConflictError",
    "ExpiredError",
    "InvalidError",
    "MissingError",
    "Object",
]

# `Cluster.list` hides the built-in inside the class.
Objects = list[Object]
Resources = list[Resource]

_CONNECT_TIMEOUT_S = 10
_TIMEOUT_S = 30
_WATCH_S = 300
_WATCH_MARGIN_S = 15
_KEEPALIVE = tcp_keepalive_socket_options(idle=30, interval=10, count=3)
"""A watch on which nothing happens notices within a minute that the server's machine is gone."""
_PAGE = 500
_UNAVAILABLE = 503
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True)
class Access:
    """An address of the API, and how to authenticate there."""

    url: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    server_name: str | None
    """What the server's certificate must be for, if that is not the URL's host."""
    proxy: str | None


class Cluster:
    """Thin over the official client: its configuration, credentials and connections; no models. Thread-safe.

    Every method raises ClusterError (or a subclass) for what the API refuses and for a server that cannot be reached.
    """

    def __init__(self, api: client.ApiClient, timeout_s: float = _TIMEOUT_S) -> None:
        self._api = api
        self._server = str(api.configuration.host)
        # The client's own way to a request finds out for each anew what kind of body it has, and which connections lead
        # to its server.
        manager: urllib3.PoolManager = api.rest_client.pool_manager
        self._connections = manager.connection_from_url(self._server)
        parts = urlsplit(self._server)
        # A proxy that sees what is asked has to be told the whole address.
        self._base = self._server if api.configuration.proxy and parts.scheme == "http" else parts.path
        self._timeout_s = timeout_s

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, *, timeout_s: float = _TIMEOUT_S) -> Self:
        """With the given kubeconfig, else the pod's service account, else the user's kubeconfig.

        `timeout_s` is how long the server may be silent before a request counts as failed. Raises ConfigError if no
        configuration can be used. Does not contact the server.
        """
        configuration = client.Configuration()
        try:
            if kubeconfig is not None:
                config.load_kube_config(str(kubeconfig), client_configuration=configuration)
            else:
                try:
                    config.load_incluster_config(client_configuration=configuration)
                except config.ConfigException:
                    config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as exc:
            place = kubeconfig or "the default kubeconfig"
            raise ConfigError(f"cannot use {place}: {exc}; start `dvcr up` or name one with KUBECONFIG") from exc
        # Each informer holds a connection for its watch, each worker thread uses another.
        configuration.connection_pool_maxsize = 64
        configuration.retries = False
        configuration.socket_options = _KEEPALIVE
        # Said once: the client would look for one in all of the environment before each request.
        direct = should_bypass_proxies(configuration.host, configuration.no_proxy or "")
        configuration.proxy = None if direct else configuration.proxy
        return cls(client.ApiClient(configuration), timeout_s)

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self._server

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None if it does not exist."""
        try:
            return self.request("GET", resource.path(namespace, name))
        except MissingError:
            return None

    def list(
        self, resource: Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> Objects:
        """All objects of the kind, in one namespace or in all."""
        return self._pages(resource, namespace, label_selector, field_selector)[0]

    def find(self, index: Index, value: Hashable) -> Objects:
        """All objects of the index's kind that have the value; all of the kind are asked for."""
        return index.pick(self.list(index.resource), value)

    def create(self, resource: Resource, obj: Object, *, strict: bool = False) -> Object:
        """Make the object. AlreadyExistsError if there is one; `strict` refuses unknown fields."""
        return self.request("POST", resource.path(_namespace(obj)), _validation(strict), obj)

    def update(self, resource: Resource, obj: Object, *, strict: bool = False) -> Object:
        """Replace the object. ConflictError if it changed since `metadata.resourceVersion`."""
        metadata = obj["metadata"]
        return self.request("PUT", resource.path(_namespace(obj), metadata["name"]), _validation(strict), obj)

    def update_status(self, resource: Resource, obj: Object) -> Object:
        """Replace the object's status alone. ConflictError as for `update`."""
        return self.request("PUT", resource.path(_namespace(obj), obj["metadata"]["name"], "status"), body=obj)

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object | Objects,
        namespace: str | None = None,
        subresource: str = "",
        *,
        strict: bool = False,
    ) -> Object:
        """Change the object by a JSON merge patch, or by a JSON patch where `patch` is a list."""
        kind = _JSON_PATCH if isinstance(patch, list) else _MERGE_PATCH
        path = resource.path(namespace, name, subresource)
        return self.request("PATCH", path, _validation(strict), patch, content_type=kind)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
    ) -> None:
        """Delete the object; fine if it is gone. With `uid` only that very object, never a successor of its name."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", resource.path(namespace, name), body=options)
        except MissingError:
            return
        except ConflictError:
            if uid is None:
                raise
            # Another object has the name: the one that was meant is gone.

    def create_in(self, resource: Resource, name: str, namespace: str, subresource: str, obj: Object) -> Object:
        """Post to a subresource, such as a pod's `binding`."""
        return self.request("POST", resource.path(namespace, name, subresource), body=obj)

    def inform(self, resource: Resource, on_change: OnChange | None = None, field_selector: str = "") -> Informer:
        """A started informer on all objects of the kind (in all namespaces)."""
        informer = Informer(self, resource, on_change, field_selector)
        informer.start()
        return informer

    def resources(self) -> Resources:
        """Every kind that the server has, preferred versions first; without those whose own server is away."""
        groups = [("", "v1")]
        for group in self.request("GET", "/apis")["groups"]:
            groups += [(group["name"], version["version"]) for version in group["versions"]]
        found = []
        for group, version in groups:
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            try:
                listed = self.request("GET", path)["resources"]
            except ClusterError as exc:
                if exc.status != _UNAVAILABLE:
                    raise
                continue
            found += [
                Resource(
                    group,
                    version,
                    entry["kind"],
                    entry["name"],
                    bool(entry["namespaced"]),
                    tuple(entry.get("shortNames") or ()),
                    tuple(entry.get("categories") or ()),
                )
                for entry in listed
                if "/" not in entry["name"]
            ]
        return found

    def table(
        self, resource: Resource, name: str = "", namespace: str | None = None, label_selector: str = ""
    ) -> Object:
        """What `kubectl get` shows: a meta.k8s.io/v1 Table of one object or of all."""
        query = {"labelSelector": label_selector} if label_selector else {}
        return self.request("GET", resource.path(namespace, name), query, accept=_TABLE)

    def logs(
        self, pod: str, namespace: str, *, container: str = "", follow: bool = False, previous: bool = False,
        tail_lines: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """The pod's log as it arrives, in pieces; with `follow` until the container ends."""
        query = {"follow": follow and "true", "previous": previous and "true", "container": container}
        query["tailLines"] = "" if tail_lines is None else str(tail_lines)
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return self.download(path, {k: v for k, v in query.items() if v})

    def download(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """What `path` answers, whatever it is, in pieces as it arrives."""
        return pieces(self._open("GET", path, query, accept="*/*", waits=True), path)

    def access(self, path: str) -> "Access":
        """What another client needs for `path`: for websockets, which the official one only has for pods."""
        configuration = self._api.configuration
        headers: dict[str, str] = {"User-Agent": "dvcr"}
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        tls = None
        if self.server.startswith("https"):
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if not configuration.verify_ssl:
                tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        server_name = configuration.tls_server_name
        return Access(self.server + quote(path), headers, tls, server_name, configuration.proxy)

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> Object:
        """One request for JSON, for what the methods above do not cover."""
        response = self._open(method, path, query, body, content_type, accept)
        return decoded(_read(response, path), path)

    def list_page(self, resource: Resource, field_selector: str) -> tuple[Objects, str]:
        """For informers: all objects and the version that they are of."""
        return self._pages(resource, None, "", field_selector)

    def current_version(self, resource: Resource) -> str:
        """For informers: the version that a list would be of now."""
        page = self.request("GET", resource.path(), {"limit": "1"})
        return str(page["metadata"].get("resourceVersion", ""))

    def watch(self, resource: Resource, resource_version: str, field_selector: str) -> WatchResponse:
        """For informers: the events after `resource_version`, for some minutes."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(_WATCH_S),
        }
        if field_selector:
            query["fieldSelector"] = field_selector
        path = resource.path()
        response = self._open("GET", path, query)
        # It answers at once, but then nothing may happen for long. A connection that serves this answer alone is out of
        # reach: there silence ends the watch sooner, and another begins.
        connection = response.connection
        if isinstance(connection, HTTPConnection) and connection.sock is not None:
            connection.sock.settimeout(_WATCH_S + _WATCH_MARGIN_S)
        return WatchResponse(response, path)

    def _pages(
        self, resource: Resource, namespace: str | None, label_selector: str, field_selector: str
    ) -> tuple[Objects, str]:
        query = {"limit": str(_PAGE), "labelSelector": label_selector, "fieldSelector": field_selector}
        query = {key: value for key, value in query.items() if value}
        items: Objects = []
        while True:
            page = self.request("GET", resource.path(namespace), query)
            for item in page.get("items") or ():
                # Lists leave these out of their items; everybody else expects them.
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                items.append(item)
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"].get("resourceVersion", "")

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        waits: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "dvcr"}
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        target = self._base + quote(path) + (f"?{urlencode(query)}" if query else "")
        timeout = urllib3.Timeout(
            connect=min(_CONNECT_TIMEOUT_S, self._timeout_s), read=None if waits else self._timeout_s
        )
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        try:
            response = self._connections.urlopen(
                method,
                target,
                content,
                headers,
                redirect=False,
                assert_same_host=False,  # its host is the proxy, where there is one
                timeout=timeout,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise ClusterError(f"cannot reach the Kubernetes API at {self.server}: {exc}") from exc
        if response.status >= 300:
            body, retry_after = _read(response, path), response.headers.get("Retry-After", "")
            raise error_from(response.status, body, f"{method} {path}", retry_after)
        return response


def _read(response: urllib3.BaseHTTPResponse, path: str) -> bytes:
    try:
        return response.data
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise ClusterError(f"the Kubernetes API broke off {path}: {exc}") from exc


def _namespace(obj: Object) -> str | None:
    namespace: str | None = obj["metadata"].get("namespace")
    return namespace


def _validation(strict: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict"} if strict else {}
