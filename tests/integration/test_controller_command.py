"""`dvcr controller` as a process."""

import os
import subprocess
import sys
from pathlib import Path

from controller.api.resource import LEASE
from controller.runtime.cluster import Cluster
from dvcr.config import as_environment
from tests.support.cluster import ClusterProcess
from tests.support.waiting import eventually

_DVCR = (sys.executable, "-c", "from dvcr.cli.main import main; main()", "controller")


def start(cluster: ClusterProcess, folder: Path) -> "subprocess.Popen[str]":
    settings = {"controller": {"kubeconfig": cluster.kubeconfig}, "log": {"style": "json"}}
    return subprocess.Popen(
        _DVCR,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **as_environment(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_replicas_take_turns_and_stop_cleanly(cluster: ClusterProcess, tmp_path: Path) -> None:
    api = Cluster.connect(cluster.kubeconfig)

    def holder() -> str:
        lease = api.get(LEASE, "dvcr-controller", "default")
        return str(lease["spec"]["holderIdentity"]) if lease else ""

    first = start(cluster, tmp_path)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == f"reconciling {cluster.url}\n"
        leader = holder()
        assert leader
        second = start(cluster, tmp_path)
        try:
            first.terminate()
            assert first.wait(20) == 0
            eventually(lambda: holder() not in ("", leader), "the second leads")
            assert second.stdout is not None
            assert second.stdout.readline() == f"reconciling {cluster.url}\n"
            second.terminate()
            assert second.wait(20) == 0
            assert holder() == ""
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()


def test_without_a_cluster_it_says_what_to_do(tmp_path: Path) -> None:
    settings = {"controller": {"kubeconfig": tmp_path / "none"}}
    done = subprocess.run(
        _DVCR,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **as_environment(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "start `dvcr up`" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
