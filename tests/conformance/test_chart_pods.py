"""The chart's pods as containers of the image, as confined as the chart says: an import through all of them."""

import base64
import json
import os
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.e2e.resources import cluster_image
from tests.support.cluster import ClusterProcess
from tests.support.containers import NEEDS, container, started
from tests.support.file_server import serving
from tests.support.helm import NAMESPACE, RELEASE, Object, find, render
from tests.support.images import build_image
from tests.support.imports import disk
from tests.support.kubernetes import free_port
from tests.support.redis import RedisServer
from tests.support.waiting import eventually

pytestmark = NEEDS

PARTS = {
    "registry": ("StatefulSet", "listening on "),
    "uploader": ("Deployment", "listening on "),
    "worker": ("Deployment", "worker ready"),
    "controller": ("Deployment", "reconciling "),
}
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Chart:
    """What the chart renders for ports that are free on this machine, and its pods as commands."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.ports = {name: free_port() for name in ("machineApi", *PARTS)}
        volume = {"name": "redis", "hostPath": {"path": str(redis.socket.parent)}}
        mount = {"name": "redis", "mountPath": str(redis.socket.parent)}
        on_redis = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
        self.objects = render(
            {
                "config": {"importer": {"source_addresses": "any"}, "registry": {"drain_delay_s": 0}},
                "redis": {"enabled": False, "external": {"existingSecret": "redis"}},
                "registry": {"port": self.ports["registry"]},
                "uploader": {"port": self.ports["uploader"], **on_redis},
                "worker": on_redis,
                "monitoring": {"port": self.ports["worker"]},
                "controller": {
                    "ports": {"machineApi": self.ports["machineApi"]},
                    # The embedded cluster checks objects itself.
                    "webhooks": {"enabled": False},
                    **on_redis,
                },
            }
        )
        self._folder = folder
        self._redis_url = redis.url

    def command(self, part: str, image: str, environment: list[str], mounts: dict[Path, str]) -> list[str]:
        """How its pod is run."""
        workload = find(self.objects, PARTS[part][0], f"{RELEASE}-{part}")
        pod = workload["spec"]["template"]["spec"]
        [spec] = pod["containers"]
        user = pod["securityContext"]["runAsUser"]
        assert spec["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        sources = {volume["name"]: self._volume(part, volume, user) for volume in pod["volumes"]}
        # Every container of the tests has an empty /tmp.
        places = {each["mountPath"]: sources[each["name"]] for each in spec["volumeMounts"]}
        del places["/tmp"]
        return container(
            image,
            "dvcr",
            *spec["args"],
            user=user,
            environment=[*(f"{each['name']}={self._value(each)}" for each in spec["env"]), *environment],
            mounts={source: place for place, source in places.items()} | mounts,
            options=[f"--add-host={RELEASE}-{name}.{NAMESPACE}.svc:127.0.0.1" for name in PARTS],
        )

    def _volume(self, part: str, volume: Object, user: int) -> Path:
        if "hostPath" in volume:
            return Path(str(volume["hostPath"]["path"]))
        folder: Path = self._folder / part / volume["name"]
        folder.mkdir(parents=True)
        files: dict[str, bytes] = {}
        if "configMap" in volume:
            data = find(self.objects, "ConfigMap", volume["configMap"]["name"])["data"]
            files = {name: text.encode() for name, text in data.items()}
        elif "secret" in volume:
            secret = self._secret(volume["secret"]["secretName"])
            files = {item["path"]: secret[item["key"]] for item in volume["secret"]["items"]}
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 0 if files else user, user)
        return folder

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        reference = variable["valueFrom"]["secretKeyRef"]
        return self._secret(reference["name"])[reference["key"]].decode()

    def _secret(self, name: str) -> dict[str, bytes]:
        if name == "redis":
            return {"url": self._redis_url.encode()}
        data = find(self.objects, "Secret", name)["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}


def give_account(cluster: ClusterProcess, chart: Chart, folder: Path) -> None:
    """Make the controller's account and its rights, as the chart has them, and put its token into the folder."""
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "APIService")
    cluster.kubectl("create", "namespace", NAMESPACE)
    objects = [each for each in chart.objects if each["kind"] in kinds]
    cluster.kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    token = cluster.kubectl("create", "token", f"--namespace={NAMESPACE}", f"{RELEASE}-controller").strip()
    folder.mkdir()
    (folder / "token").write_text(token)
    (folder / "namespace").write_text(NAMESPACE)
    (folder / "ca.crt").write_bytes(cluster.ca_file.read_bytes())


def test_an_image_goes_through_the_charts_pods(
    container_image: str, cluster: ClusterProcess, open_redis: RedisServer, tmp_path: Path
) -> None:
    chart = Chart(tmp_path, open_redis)
    account = tmp_path / "account"
    give_account(cluster, chart, account)
    # With the port of its own that it has in a network of its own.
    of_controller = [
        "KUBERNETES_SERVICE_HOST=127.0.0.1",
        f"KUBERNETES_SERVICE_PORT={cluster.port}",
        f"DVCR__MONITORING__PORT={chart.ports['controller']}",
    ]

    with ExitStack() as stack, serving(build_image(tmp_path, disk(), "vdi")) as server:
        roles = {}
        for part, (_, first_line) in PARTS.items():
            added = (of_controller, {account: ACCOUNT}) if part == "controller" else ([], {})
            command = chart.command(part, container_image, *added)
            roles[part] = stack.enter_context(started(command, first_line))
        for part in PARTS:
            assert requests.get(f"http://127.0.0.1:{chart.ports[part]}/readyz", timeout=10).status_code == 200
        assert requests.get(f"http://127.0.0.1:{chart.ports['registry']}/v2/", timeout=10).status_code == 401

        cluster.kubectl("create", "--filename=-", stdin=json.dumps(cluster_image("disk", server.url)))

        def phase() -> str:
            return cluster.kubectl("get", "cvmi", "disk", "--output=jsonpath={.status.phase}")

        eventually(lambda: phase() == "Ready", "the image is Ready", 60)
        assert {part: roles[part].stop() for part in reversed(PARTS)} == dict.fromkeys(PARTS, 0)
