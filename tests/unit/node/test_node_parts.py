"""The pure parts of the node agent: back-off, probes, addresses, environment, files, placement, logs."""

import io
from pathlib import Path
from typing import Any

import pytest

from controller.local.node import logs
from controller.local.node.addresses import AddressPool
from controller.local.node.environment import command_line, environment, expand
from controller.local.node.placement import misfit, tell_misfit
from controller.local.node.probes import Verdict, port_number
from controller.local.node.restarts import Backoff, restarts
from controller.local.node.shim import Log
from controller.local.node.volumes import PodVolumes, mount, selected, write_files
from dvcr.errors import ConfigError, ResourceError
from tests.support.memory_cluster import MemoryCluster

POD: dict[str, Any] = {
    "metadata": {"name": "pod", "namespace": "space", "uid": "1-2", "labels": {"a": "b"}},
    "spec": {"nodeName": "here"},
}


def test_the_back_off_doubles_up_to_its_bound_and_is_forgiven() -> None:
    pauses, last = [], 0.0
    for count in range(8):
        last = Backoff().next_s(count, last, ran_for_s=1)
        pauses.append(last)
    assert pauses == [0, 10, 20, 40, 80, 160, 300, 300]
    assert Backoff().next_s(9, 300, ran_for_s=600) == 0


def test_restart_policies() -> None:
    table = {(p, c): restarts(p, c) for p in ("Always", "OnFailure", "Never") for c in (0, 1)}
    assert [key for key, value in table.items() if value] == [("Always", 0), ("Always", 1), ("OnFailure", 1)]


def test_a_verdict_needs_its_thresholds() -> None:
    verdict = Verdict(success_threshold=2, failure_threshold=3)
    results = [True, True, False, False, True, False, False, False, True]
    assert [verdict.add(r) for r in results] == [False, True, True, True, True, True, True, False, False]


def test_a_probe_may_name_its_port() -> None:
    ports = [{"name": "http", "containerPort": 8080}]
    assert [port_number({"port": p}, ports) for p in (80, "81", "http")] == [80, 81, 8080]
    with pytest.raises(ValueError, match="no port named 'other'"):
        port_number({"port": "other"}, ports)


def test_addresses_are_given_once_and_rest_before_they_are_given_again() -> None:
    others = {"127.64.0.4"}
    pool = AddressPool("127.64.0.0/29", lambda address: None if address in others else io.BytesIO())
    pool.reserve("127.64.0.1", "a")
    assert pool.take("b") == "127.64.0.2"
    pool.release("b")
    assert pool.take("c") == "127.64.0.3"
    assert [pool.take(str(n)) for n in range(3)] == ["127.64.0.5", "127.64.0.6", "127.64.0.2"]
    with pytest.raises(ResourceError, match=r"node\.pod_cidr"):
        pool.take("z")


def test_a_leased_address_is_given_to_one_owner_wherever_it_lies() -> None:
    others = {"127.65.0.9"}
    pool = AddressPool("127.64.0.0/29", lambda address: None if address in others else io.BytesIO())
    pool.take_leased("a", "127.65.0.1")
    pool.take_leased("b", "127.64.0.1")
    assert pool.take("c") == "127.64.0.2"
    for taken in ("127.65.0.1", "127.64.0.2", "127.65.0.9"):
        with pytest.raises(ResourceError, match="still in use"):
            pool.take_leased("d", taken)
    for refused in ("10.0.0.1", "nonsense", "::1"):
        with pytest.raises(ResourceError, match="no loopback"):
            pool.take_leased("d", refused)
    pool.release("a")
    pool.take_leased("d", "127.65.0.1")
    pool.reserve("127.65.0.7", "e")
    assert pool.take("f") == "127.64.0.3"


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "127.0.0.0/31", "nonsense", "127.0.0.1/8"])
def test_only_loopback_ranges_hold_pods(cidr: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.pod_cidr"):
        AddressPool(cidr)


def test_references_are_expanded_as_kubernetes_does() -> None:
    env = {"A": "1"}
    assert expand("$(A) $(B) $$(A) $A $$", env) == "1 $(B) $(A) $A $"
    assert command_line({"name": "c", "command": ["x"], "args": ["$(A)"]}, env) == ["x", "1"]
    with pytest.raises(ResourceError, match="name one"):
        command_line({"name": "c", "args": ["x"]}, env)


def test_the_environment_takes_fields_secrets_and_config(tmp_path: Path) -> None:
    def ref(kind: str, **more: Any) -> dict[str, Any]:
        return {"name": kind, "valueFrom": {kind: more}}

    container = {
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "conf"}, "prefix": "X_"}],
        "env": [
            ref("fieldRef", fieldPath="metadata.uid"),
            {"name": "label", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
            ref("secretKeyRef", name="key", key="k"),
            {"name": "absent", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k", "optional": True}}},
        ],
    }
    known = {("Secret", "key"): {"k": b"secret"}, ("ConfigMap", "conf"): {"Y": b"2"}}
    env = environment(POD, container, root=tmp_path, pod_ip="127.64.0.1", lookup=lambda *key: known.get(key))
    got = {key: env.get(key) for key in ("fieldRef", "label", "secretKeyRef", "absent", "X_Y", "DVCR_POD_ROOT")}
    assert got == {
        "fieldRef": "1-2", "label": "b", "secretKeyRef": "secret", "absent": None, "X_Y": "2",
        "DVCR_POD_ROOT": str(tmp_path),
    }  # fmt: skip
    assert env["DVCR_TERMINATION_LOG"] == str(tmp_path / "dev/termination-log")
    wrong = {"name": "c", "env": [ref("fieldRef", fieldPath="spec.unknown")]}
    with pytest.raises(ResourceError, match=r"spec\.unknown"):
        environment(POD, wrong, root=tmp_path, pod_ip="", lookup=lambda *_: None)


def test_the_cache_of_launchers_is_the_nodes_where_it_has_one(tmp_path: Path) -> None:
    container = {"name": "c", "env": [{"name": "DVCR__LAUNCHER__CACHE_DIR", "value": "/var/cache/dvcr"}]}
    for cache_dir, expected in ((tmp_path / "shared", str(tmp_path / "shared")), (None, "/var/cache/dvcr")):
        env = environment(POD, container, root=tmp_path, pod_ip="", lookup=lambda *_: None, cache_dir=cache_dir)
        assert env["DVCR__LAUNCHER__CACHE_DIR"] == expected


def test_a_folder_of_the_host_is_made_where_the_pod_asks_for_it(tmp_path: Path) -> None:
    def pod(path: Path, **more: str) -> dict[str, Any]:
        return {**POD, "spec": {"volumes": [{"name": "v", "hostPath": {"path": str(path), **more}}]}}

    volumes = PodVolumes(MemoryCluster(), tmp_path / "pod", ())  # type: ignore[arg-type]  # which is not asked
    assert volumes.prepare(pod(tmp_path / "a/b", type="DirectoryOrCreate")) == {"v": tmp_path / "a/b"}
    assert (tmp_path / "a/b").is_dir()
    volumes.prepare(pod(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot make the folder"):
        volumes.prepare(pod(tmp_path / "file/d", type="DirectoryOrCreate"))


def test_files_are_brought_up_to_date(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "d/b": b"2"}, {})
    inode = (tmp_path / "a").stat().st_ino
    write_files(tmp_path, {"a": b"1", "c": b"3"}, {"defaultMode": 0o400})
    assert (tmp_path / "a").stat().st_ino == inode
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"a", "c"}
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x"])
def test_items_stay_in_their_folder(path: str) -> None:
    with pytest.raises(ResourceError, match="must be relative"):
        selected({"k": b""}, {"items": [{"key": "k", "path": path}]}, "secret")


def test_mounts_lead_to_their_volumes(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    root = tmp_path / "root"
    mount(root, [{"name": "v", "mountPath": "/a/b"}, {"name": "v", "mountPath": "/c", "subPath": "s"}], {"v": volume})
    (root / "a/b/file").write_text("x")
    (root / "c/file").write_text("y")
    assert (volume / "file").read_text() == "x"
    assert (volume / "s/file").read_text() == "y"
    mount(root, [], {})
    assert (volume / "file").exists(), "making the root anew leaves the volumes alone"
    for wrong in (
        {"name": "w", "mountPath": "/a"},
        {"name": "v", "mountPath": "/../a"},
        {"name": "v", "mountPath": "/"},
    ):
        with pytest.raises(ResourceError):
            mount(root, [wrong], {"v": volume})


def test_placement_reads_labels_cordons_and_volumes() -> None:
    node: dict[str, Any] = {"metadata": {"name": "one", "labels": {"disk": "ssd"}}, "spec": {}}
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["two"]}]}
    volume = {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}}
    uses = {"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}
    assert misfit({"spec": {"nodeSelector": {"disk": "ssd"}}}, node, lambda _: None) == ""
    assert "disk=hdd" in misfit({"spec": {"nodeSelector": {"disk": "hdd"}}}, node, lambda _: None)
    assert "node 'two'" in misfit(uses, node, lambda _: volume)
    assert misfit(uses, node | {"metadata": {"name": "two"}}, lambda _: volume) == ""
    assert "cordoned" in misfit({"spec": {}}, node | {"spec": {"unschedulable": True}}, lambda _: None)


def test_a_pod_says_why_it_has_no_node_in_the_words_of_the_first_that_refused_it() -> None:
    before, now = "2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z"
    told = tell_misfit(
        {"metadata": {"name": "p"}, "status": {"phase": "Pending"}}, "one", "the node is cordoned", before
    )
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "node one: the node is cordoned",
        "lastTransitionTime": before,
    }
    assert told == [condition]
    pod = {"metadata": {"name": "p"}, "status": {"conditions": told}}
    assert tell_misfit(pod, "one", "the node is cordoned", now) is None
    assert tell_misfit(pod, "two", "the node is cordoned", now) is None
    assert tell_misfit(pod, "one", "no", now) == [condition | {"message": "node one: no"}]


def test_a_log_is_bounded_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, max_bytes=2000)
    for number in range(1000):
        log.write("stdout", f"line {number}\n".encode())
    log.write("stderr", b"half")
    assert path.stat().st_size + (tmp_path / "log.1").stat().st_size <= 4000
    text = b"".join(logs.read(path))
    assert text.endswith(b"line 998\nline 999\nhalf")
    assert b"".join(logs.read(path, tail_lines=2)) == b"line 999\nhalf"
    assert b"".join(logs.read(path, tail_lines=0)) == b""
    stamped = b"".join(logs.read(path, tail_lines=2, timestamps=True))
    assert stamped.splitlines()[0].split(b" ", 1)[1] == b"line 999"


def test_a_follower_of_a_tail_misses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, max_bytes=200)
    log.write("stdout", b"one\ntwo\n")
    alive = True
    reader = logs.read(path, tail_lines=1, follow=lambda: alive)
    got = [next(reader)]
    for number in range(20):
        log.write("stdout", b"%d\n" % number)
        while not (piece := next(reader)):
            pass
        got.append(piece)
    alive = False
    got += list(reader)
    assert b"".join(got) == b"two\n" + b"".join(b"%d\n" % n for n in range(20))
