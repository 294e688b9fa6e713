"""How requests reach an API server: below a path, through a proxy, and never to where another server points."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from controller.api.resource import NODE
from controller.runtime.cluster import Cluster
from controller.runtime.errors import ClusterError
from tests.support.proxy_server import proxy

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Server:
    """Answers every request with a node, and knows what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        """Method, path and body."""
        self.redirects_to = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                outer.asked.append((self.command, self.path, body))
                answer = json.dumps({"metadata": {"name": "n"}}).encode()
                self.send_response(302 if outer.redirects_to else 200)
                if outer.redirects_to:
                    self.send_header("Location", outer.redirects_to)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815 (the base class says so)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class says so)
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()


def connect(folder: Path, url: str) -> Cluster:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))
    return Cluster.connect(folder / "kubeconfig")


def test_a_server_may_be_below_a_path(server: Server, tmp_path: Path) -> None:
    cluster = connect(tmp_path, server.url + "/k8s/clusters/one/")

    cluster.get(NODE, "a node")
    cluster.create(NODE, {"metadata": {"name": "n"}}, strict=True)

    at = "/k8s/clusters/one/api/v1/nodes"
    assert server.asked == [
        ("GET", f"{at}/a%20node", ""),
        ("POST", f"{at}?fieldValidation=Strict", '{"metadata":{"name":"n"}}'),
    ]


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.0/8"])
def test_a_proxy_is_told_the_whole_address(
    server: Server, tmp_path: Path, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as (address, through):
        monkeypatch.setenv("HTTP_PROXY", address)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        found = connect(tmp_path, server.url).get(NODE, "n")

    assert found == {"metadata": {"name": "n"}}
    assert through == ([] if no_proxy else [f"{server.url}/api/v1/nodes/n"])
    assert server.asked == [("GET", "/api/v1/nodes/n", "")]


def test_a_redirect_is_not_followed(server: Server, tmp_path: Path) -> None:
    server.redirects_to = server.url + "/elsewhere"

    with pytest.raises(ClusterError):
        connect(tmp_path, server.url).get(NODE, "n")

    assert server.asked == [("GET", "/api/v1/nodes/n", "")]
