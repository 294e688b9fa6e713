"""CPU weights and limits, on a folder that looks like cgroup v2."""

from pathlib import Path
from typing import Any

import pytest

from controller.local.node.cgroups import CpuGroups, weight
from controller.local.node.heartbeat import Fact


def cgroup(folder: Path, *, divided: bool = False, controllers: str = "cpuset cpu io memory") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(f"{controllers}\n")
    (folder / "cgroup.subtree_control").write_text("cpu\n" if divided else "")
    return folder


def own(tmp_path: Path, place: str) -> Path:
    path = tmp_path / "self"
    path.write_text(f"0::{place}\n")
    return path


def pod(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "p", "uid": "u-1"}, "spec": {"containers": [{"resources": r} for r in resources]}}


def found(tmp_path: Path) -> CpuGroups:
    root = cgroup(tmp_path / "cgroup", divided=True)
    cgroup(root / "dvcr-local")
    return CpuGroups.find("local", root, own(tmp_path, "/"))


@pytest.mark.parametrize(("millicores", "expected"), [(0, 1), (100, 4), (1000, 39), (4000, 157), (10**9, 10000)])
def test_weights_are_those_of_kubernetes(millicores: int, expected: int) -> None:
    assert weight(millicores) == expected


def test_a_pod_has_the_weight_of_its_requests_and_no_limit_unless_all_containers_have_one(tmp_path: Path) -> None:
    groups = found(tmp_path)
    assert groups.trouble == ""

    group = Path(groups.group_of(pod({"requests": {"cpu": "500m"}}, {"requests": {"cpu": 1.5}, "limits": {"cpu": 1}})))

    assert group == tmp_path / "cgroup/dvcr-local/u-1"
    assert (group / "cpu.weight").read_text() == f"{weight(2000)}\n"
    assert (group / "cpu.max").read_text() == "max 100000\n"
    groups.group_of(pod({"limits": {"cpu": "250m"}}, {"limits": {"cpu": "1"}}))
    assert (group / "cpu.max").read_text() == "125000 100000\n"


def test_the_nearest_cgroup_that_can_be_divided_is_used(tmp_path: Path) -> None:
    root = cgroup(tmp_path / "cgroup", divided=True)
    cgroup(root / "user", controllers="memory")
    cgroup(root / "dvcr-local")

    groups = CpuGroups.find("local", root, own(tmp_path, "/user"))

    assert groups.group_of(pod({})).startswith(str(root / "dvcr-local"))
    assert (root / "dvcr-local/cgroup.subtree_control").read_text() == "+cpu"


def test_a_system_without_cgroup_v2_is_named(tmp_path: Path) -> None:
    groups = CpuGroups.find("local", tmp_path, own(tmp_path, "/"))

    assert groups.trouble == f"there is no cgroup v2 at {tmp_path}"
    assert groups.group_of(pod({})) == ""
    groups.remove("u-1")


def test_a_system_that_allows_no_cgroups_is_named(tmp_path: Path) -> None:
    root = cgroup(tmp_path / "cgroup", divided=True)
    (root / "dvcr-local").write_text("in the way")

    assert "cannot divide the cgroup" in CpuGroups.find("local", root, own(tmp_path, "/")).trouble


def test_the_cgroup_goes_with_its_pod(tmp_path: Path) -> None:
    groups = found(tmp_path)
    group = Path(groups.group_of(pod({})))
    for file in group.iterdir():
        # The kernel's files go with their folder.
        file.unlink()

    groups.remove("u-1")
    groups.remove("u-1")

    assert not group.exists()


def test_the_node_says_whether_pods_have_their_share(tmp_path: Path) -> None:
    assert found(tmp_path).fact() == Fact(True, "CgroupV2", "pods have CPU weights and limits")
    nothing = CpuGroups(None, "there is no cgroup v2").fact()
    assert nothing == Fact(False, "NoCgroup", "pods have no CPU weights and limits: there is no cgroup v2")
