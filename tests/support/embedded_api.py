"""The embedded cluster's API, spoken without a client library."""

import json
from collections.abc import Iterator
from typing import Any

from tests.support.cluster import ClusterProcess

MERGE = {"Content-Type": "application/merge-patch+json"}
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
THINGS = "/apis/test.dvcr.io/v1/namespaces/default/things"
THING_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.test.dvcr.io"},
    "spec": {
        "group": "test.dvcr.io",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Phase", "type": "string", "jsonPath": ".status.phase"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1},
                                    "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Fast"},
                                },
                            },
                            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                        },
                    }
                },
            }
        ],
    },
}


class Api:
    """The cluster's API with relative paths and expected codes."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self.cluster = cluster
        self.http = cluster.session()

    def __call__(
        self, method: str, path: str, body: Any = None, *, code: int = 200, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        data = json.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json", **(headers or {})}
        answer = self.http.request(method, self.cluster.url + path, data=data, headers=headers, timeout=20)
        assert answer.status_code == code, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def watch(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        answer = self.http.get(self.cluster.url + path, params={"watch": "true", **query}, stream=True, timeout=30)
        assert answer.status_code == 200, answer.text
        return (json.loads(line) for line in answer.iter_lines(chunk_size=None))


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"a": "1"}}
