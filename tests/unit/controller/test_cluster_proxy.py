"""The proxy on the way to the API server: found once, out of the environment, for requests and websockets alike."""

from pathlib import Path

import pytest
import yaml

from controller.runtime.cluster import Cluster

SERVER = "https://kubernetes.example.com:6443"
VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": SERVER, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


def test_it_is_the_environments_at_the_beginning(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    cluster = Cluster.connect(kubeconfig)
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example.com:3128")

    access = cluster.access("/version")

    assert (access.proxy, access.headers["authorization"]) == ("http://proxy.example.com:3128", "Bearer t")


@pytest.mark.parametrize("no_proxy", ["kubernetes.example.com", ".example.com", "*"])
def test_none_for_a_server_that_needs_none(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert Cluster.connect(kubeconfig).access("/version").proxy is None
