"""A real control plane of Kubernetes: etcd, kube-apiserver and kube-controller-manager, on free ports."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from controller.api.kinds import crds
from tests.support import go_tool
from tests.support.certificates import self_signed
from tests.support.cluster import ClusterProcess
from tests.support.waiting import eventually

VERSION = "v1.36.3"
ETCD, ETCDUTL = "go.etcd.io/etcd/server/v3@v3.6.16", "go.etcd.io/etcd/etcdutl/v3@v3.6.16"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kubectl")
TOKEN = "a-token-of-the-tests"
VOLUMES_BY_NODES = "*,-persistentvolume-binder-controller"
"""The controllers where node agents bind claims, and free their volumes, by themselves."""
READY_TIMEOUT_S = 120
_NO_GO = 3  # exit status of the script

_SCRIPT = Path(__file__).parents[2] / "scripts/go-kubernetes"


@cache
def program(name: str) -> Path:
    """One of Kubernetes' programs: the one in the folder KUBEBUILDER_ASSETS, else built if it is not yet, which takes a
    quarter of an hour for all. That folder, as setup-envtest makes it, never has kube-controller-manager.

    Where it is to be built without Go the test is skipped, and fails where CI=true.
    """
    done = subprocess.run([_SCRIPT, VERSION, name], capture_output=True, text=True, check=False)
    if done.returncode == _NO_GO and os.environ.get("CI") != "true":
        pytest.skip(f"{name} needs Go, which is not installed")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def etcd() -> Path:
    """As `program`."""
    given = Path(os.environ.get("KUBEBUILDER_ASSETS", "")) / "etcd"
    return given if given.is_absolute() and given.exists() else Path(go_tool.build(ETCD))


@dataclass
class KubernetesProcess(ClusterProcess):
    """The control plane over the folder `root`. `kill` and `start` are the API server's; etcd goes on."""

    defines_kinds: bool = True
    """Whether DVCR's kinds are there from the start."""
    options: tuple[str, ...] = ()
    """Further ones of kube-apiserver."""
    controllers: str = "*"
    """Which of its controllers kube-controller-manager runs."""
    users: dict[str, str] = field(default_factory=dict)
    """Names of more administrators by their tokens."""
    _beside: "list[subprocess.Popen[bytes]]" = field(default_factory=list, repr=False)
    _etcd_url: str = ""

    @property
    def ca_file(self) -> Path:
        return self.root / "certificate.pem"

    @property
    def token(self) -> str:
        return TOKEN

    def start(self) -> None:
        """Start what does not run yet, and wait until the API server and its controllers are ready."""
        is_new = not self._etcd_url
        if is_new:
            self._prepare()
        self._start_api_server()
        if is_new:
            if self.defines_kinds:
                self.define(crds())
            self._run_beside(
                program("kube-controller-manager"),
                f"--kubeconfig={self.kubeconfig}",
                f"--controllers={self.controllers}",
                f"--service-account-private-key-file={self.root}/key.pem",
                f"--root-ca-file={self.ca_file}",
                "--leader-elect=false",
                "--secure-port=0",
            )
        eventually(self._has_account, "the namespace default has its account", READY_TIMEOUT_S)

    def __exit__(self, *exc: object) -> None:
        """End what runs, also beside an API server that was killed."""
        if self._beside:
            self.stop()

    def stop(self) -> int:
        """End everything, at once: nobody needs the data any more, and kube-apiserver takes its time."""
        for process in reversed(self._beside[1:]):
            process.kill()
            process.wait(30)
        if self.process is not None:
            self.kill()
        self._beside[0].kill()
        self._beside[0].wait(30)
        self._beside.clear()
        self._etcd_url = ""
        return 0

    def back_up(self, snapshot: Path) -> None:
        """Save what etcd holds, while all of it runs, as `etcdctl snapshot save` does."""
        url = f"{self._etcd_url}/v3/maintenance/snapshot"
        with requests.post(url, json={}, stream=True, timeout=60) as answer, snapshot.open("wb") as file:
            answer.raise_for_status()
            for line in answer.iter_lines():
                file.write(base64.b64decode(json.loads(line)["result"].get("blob", "")))

    def restore(self, snapshot: Path, *, bumped: bool = True) -> None:
        """Have etcd begin anew with what was saved. Everything must have been stopped.

        As Kubernetes advises: `bumped` to revisions that nobody has seen yet, so that whoever watches lists again.
        """
        shutil.rmtree(self.root / "etcd")
        options = [f"--data-dir={self.root}/etcd"]
        if bumped:
            options += ["--bump-revision=1000000000", "--mark-compacted"]
        done = subprocess.run(
            [go_tool.build(ETCDUTL), "snapshot", "restore", snapshot, *options],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.defines_kinds = False

    def _prepare(self) -> None:
        self.port = self.port or free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self_signed(self.root, "127.0.0.1")
        users = {TOKEN: "admin", **self.users}
        lines = [f"{token},{user},{user},system:masters\n" for token, user in users.items()]
        (self.root / "tokens.csv").write_text("".join(lines))
        self.kubeconfig.write_text(self.configuration(TOKEN))
        self._etcd_url, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run_beside(
            etcd(),
            f"--data-dir={self.root}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            "--unsafe-no-fsync",
            "--log-level=error",
        )

    def _start_api_server(self) -> None:
        # The certificate is its own authority; it also signs accounts' tokens and the aggregation layer's requests.
        certificate, key = self.root / "certificate.pem", self.root / "key.pem"
        with (self.root / "log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    program("kube-apiserver"),
                    f"--etcd-servers={self._etcd_url}",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={self.port}",
                    f"--cert-dir={self.root}",
                    f"--tls-cert-file={certificate}",
                    f"--tls-private-key-file={key}",
                    f"--token-auth-file={self.root}/tokens.csv",
                    "--authorization-mode=RBAC",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={certificate}",
                    f"--service-account-signing-key-file={key}",
                    "--service-cluster-ip-range=10.96.0.0/24",
                    f"--requestheader-client-ca-file={certificate}",
                    "--requestheader-username-headers=X-Remote-User",
                    "--requestheader-group-headers=X-Remote-Group",
                    "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                    f"--proxy-client-cert-file={certificate}",
                    f"--proxy-client-key-file={key}",
                    "--endpoint-reconciler-type=none",
                    "--kubelet-preferred-address-types=InternalIP",  # nobody resolves nodes' names here
                    "--allow-privileged=true",
                    *self.options,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        eventually(self._is_ready, "kube-apiserver is ready", READY_TIMEOUT_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.root / "log").read_text()[-4000:]
        try:
            return self.session().get(f"{self.url}/readyz", timeout=5).ok
        except requests.RequestException:  # also too slow an answer, on a busy machine
            return False

    def define(self, definitions: Sequence[dict[str, Any]]) -> None:
        """Have the API server serve the kinds of these CustomResourceDefinitions."""
        session, at = self.session(), f"{self.url}/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for crd in definitions:
            made = session.post(at, json=crd, timeout=30)
            assert made.ok, made.text
        for crd in definitions:
            name = crd["metadata"]["name"]
            eventually(partial(self._is_established, f"{at}/{name}"), f"{name} is established", READY_TIMEOUT_S)

    def _is_established(self, url: str) -> bool:
        conditions = self.session().get(url, timeout=30).json().get("status", {}).get("conditions") or ()
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    def _has_account(self) -> bool:
        return self.session().get(f"{self.url}/api/v1/namespaces/default/serviceaccounts/default", timeout=10).ok

    def configuration(self, token: str) -> str:
        """The kubeconfig of a user, by the token."""
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
            "current-context": "tests",
        }
        return yaml.safe_dump(document)

    def _run_beside(self, *command: object) -> None:
        with (self.root / "log").open("a") as log:
            self._beside.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    print(VERSION, *(sys.argv[1:] or PROGRAMS))  # for scripts/go-kubernetes
