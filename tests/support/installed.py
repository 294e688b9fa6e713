"""Workloads of an installed chart as processes: what a kubelet would run, from the objects that the API server has."""

import base64
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from controller.api.resource import CONFIG_MAP, SECRET, Resource
from controller.runtime.cluster import Cluster
from tests.support.helm import NAMESPACE

Object = dict[str, Any]
_BIN = Path(sys.executable).parent
_WORKLOADS = {kind: Resource("apps", "v1", kind, f"{kind.lower()}s") for kind in ("Deployment", "StatefulSet")}


@dataclass
class InstalledChart:
    """Its processes. Volumes are folders under `root`, and their paths in variables and arguments are put right, as are
    the names of Services, for which there is no DNS.
    """

    cluster: Cluster
    root: Path
    services: dict[str, str]
    """Where each is reached here, by host or by host and port."""
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def start(self, kind: str, name: str, *arguments: str, **variables: str) -> None:
        """Run the workload's container, with these arguments and variables besides."""
        container, folders = self._volumes(kind, name)
        environment = {each["name"]: self._here(self._value(each), folders) for each in container.get("env", ())}
        command = container.get("command") or [str(_BIN / "dvcr")]
        command = [self._here(each, folders) for each in (*command, *container.get("args", ()), *arguments)]
        self.work_folder(name).mkdir()
        with self.log(name).open("a") as log:
            self.processes[name] = subprocess.Popen(
                [shutil.which(command[0]) or command[0], *command[1:]],
                env={"PATH": os.environ["PATH"], **environment, **variables},
                cwd=self.work_folder(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def password(self, name: str) -> str:
        """Of one of DVCR's own parts, at the registry."""
        secret = self.cluster.get(SECRET, "dvcr-access", NAMESPACE)
        assert secret is not None
        return base64.b64decode(secret["data"][name]).decode()

    def log(self, name: str) -> Path:
        return self.root / f"{name}.log"

    def work_folder(self, name: str) -> Path:
        """Where the process runs: in the container it is `/`, and read-only."""
        return self.root / f"{name}.work"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """End all of them, the last first."""
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _volumes(self, kind: str, name: str) -> tuple[Object, dict[str, Path]]:
        workload = self.cluster.get(_WORKLOADS[kind], name, NAMESPACE)
        assert workload is not None
        pod = workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        folders = {}
        for mount in container["volumeMounts"]:
            folder = folders[mount["mountPath"]] = self.root / name / mount["name"]
            folder.mkdir(parents=True)
            [volume] = [each for each in pod["volumes"] if each["name"] == mount["name"]]
            for path, content in self._files(volume).items():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_bytes(content)
        return container, folders

    def _files(self, volume: Object) -> dict[str, bytes]:
        if "configMap" in volume:
            found = self.cluster.get(CONFIG_MAP, volume["configMap"]["name"], NAMESPACE)
            assert found is not None
            return {name: text.encode() for name, text in found["data"].items()}
        if "secret" in volume:
            found = self.cluster.get(SECRET, volume["secret"]["secretName"], NAMESPACE)
            assert found is not None
            items = volume["secret"].get("items") or [{"key": name, "path": name} for name in found["data"]]
            return {each["path"]: base64.b64decode(found["data"][each["key"]]) for each in items}
        return {}

    def _value(self, variable: Object) -> str:
        if "value" in variable:
            return str(variable["value"])
        reference = variable["valueFrom"]["secretKeyRef"]
        secret = self.cluster.get(SECRET, reference["name"], NAMESPACE)
        assert secret is not None
        return base64.b64decode(secret["data"][reference["key"]]).decode()

    def _here(self, text: str, folders: dict[str, Path]) -> str:
        for path in sorted(folders, key=len, reverse=True):
            if text == path or text.startswith(path + "/"):
                return str(folders[path]) + text.removeprefix(path)
        for service, place in self.services.items():
            text = text.replace(service, place)
        return text
