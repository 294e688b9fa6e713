"""The Helm chart without a cluster: what it renders, what it refuses, and that it speaks of settings as they are."""

import base64
import gzip
import inspect
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import redis
import yaml
from pydantic import BaseModel, SecretStr

from controller.api.kinds import crds
from controller.api.resource import DISK, IMAGE, VALIDATING_WEBHOOKS
from controller.api.rights import CLONING
from controller.consoles.paths import SUBRESOURCES
from controller.consoles.registration import API_SERVICE_NAME
from controller.disks.work import WORK_LABEL
from controller.machines.pod import NAME_LABEL
from controller.runtime.lease import LeaderLease
from controller.webhooks.registration import NAME as WEBHOOKS_NAME
from controller.webhooks.registration import _configuration
from dvcr.access.caller import Caller
from dvcr.access.policy import Policy
from dvcr.access.scope import Action
from dvcr.config import ENVIRONMENT_PREFIX, AccessSettings, RuleSettings, Settings, load_settings
from dvcr.jobs.job import HttpOrigin, ImportJob, JobProgress, JobState
from dvcr.jobs.redis import RedisJobBoard
from tests.support.go_tool import HELM, HELM_3
from tests.support.helm import (
    CHART,
    KUBERNETES,
    MATRIX,
    NAMESPACE,
    environment,
    find,
    helm,
    render,
    try_helm,
    workloads,
)
from tests.support.redis import RedisServer

MAX_RELEASE_BYTES = 2**20
"""What Helm keeps of a release is one Secret, and etcd takes no larger object."""


@pytest.fixture(scope="module", params=MATRIX, ids=lambda path: path.name.removesuffix("-values.yaml"))
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The chart's objects with values of the matrix."""
    return render(None, request.param)


@pytest.mark.parametrize("values", MATRIX, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_lint_has_nothing_to_say(values: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", values)


@pytest.mark.parametrize("values", MATRIX, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_helm_3_makes_the_same_of_it(values: Path) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, "--values", values, program=HELM_3)
    of_helm_3, of_helm_4 = (
        # Where they put kinds that are not Kubernetes' own differs.
        sorted(map(_without_passwords, render(None, values, program=program)), key=_kind_and_name)
        for program in (HELM_3, HELM)
    )
    assert of_helm_3 == of_helm_4


def test_every_variable_is_a_setting(rendered: list[dict[str, Any]]) -> None:
    for workload in workloads(rendered):
        for name in environment(workload):
            if name.startswith(ENVIRONMENT_PREFIX):
                path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
                assert not isinstance(_default_at(path), BaseModel), name


def test_every_setting_is_given_by_config_or_by_the_chart() -> None:
    named = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        for values in MATRIX
        for workload in workloads(render(None, values))
        for name in environment(workload)
        if name.startswith(ENVIRONMENT_PREFIX)
    }
    left_out = {
        # Of one machine only: its API server, its node, and what nobody has installed there.
        "cluster", "node", "controller.kubeconfig", "controller.machine_api.external_name",
        "controller.webhooks.external_name",
        # Nobody has more than their rights; and a machine's pod mounts its cache at a place of its own.
        "access.anonymous", "launcher.cache_dir",
        # Its parts have passwords in their environment; the pods that the controller makes have a file.
        "client.credentials_file",
        # Neither the kubelet's probes nor the parts have a certificate to show.
        "registry.tls.client_certificates", "uploader.tls.client_certificates",
    }  # fmt: skip
    config = _set_of_paths(_schema_paths())

    for path, _ in _settings(Settings):
        places = {".".join(path[:end]) for end in range(1, len(path) + 1)}
        ways = [bool(places & config), bool(places & named), bool(places & left_out)]
        assert ways.count(True) == 1, f"{'.'.join(path)}: config, chart, left out: {ways}"


def test_every_setting_of_config_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = {}
    for path, default in _settings(Settings):
        if ".".join(path) in _set_of_paths(_schema_paths()):
            *sections, key = path
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = _other(path, default)
    config["storage"] = {"driver": "s3", "s3": config["storage"]["s3"]}
    text = find(render({"config": config}), "ConfigMap", "dvcr-config")["data"]["dvcr.toml"]
    file = tmp_path / "dvcr.toml"
    file.write_text(text)
    for name in [name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX)]:
        monkeypatch.delenv(name)

    settings = load_settings(file).model_dump(mode="json")

    # After those of the chart's own parts.
    settings["access"]["rules"] = settings["access"]["rules"][2:]
    own, *settings["importer"]["plain_http_registries"] = settings["importer"]["plain_http_registries"]
    assert own == f"dvcr-registry.{NAMESPACE}.svc:5000"
    for path, _ in _settings(Settings):
        if ".".join(path) in _set_of_paths(_schema_paths()):
            wanted, found = config, settings
            for part in path:
                wanted, found = wanted[part], found[part]
            assert _filled(wanted, found) == found, ".".join(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": {"importer": {"concurency": 3}}}, "additional properties 'concurency' not allowed"),
        ({"config": {"importer": {"concurrency": "many"}}}, "got string, want integer"),
        ({"config": {"client": {"password": "x"}}}, "additional properties 'password' not allowed"),
        ({"config": {"registry": {"tls": {"client_certificates": "required"}}}}, "'client_certificates' not allowed"),
        ({"config": None}, "missing property 'config'"),
        ({"registry": {"tls": None}}, "missing property 'tls'"),
        ({"fullnameOverride": "My_images"}, "does not match pattern"),
        ({"worker": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"worker": {"resources": {"request": {"cpu": 1}}}}, "additional properties 'request' not allowed"),
        ({"worker": {"extraEnv": [{"name": "A", "value": 3}]}}, "got number, want string"),
        ({"worker": {"tolerations": [{"effect": "NoScheduling"}]}}, "value must be one of 'NoSchedule'"),
        ({"worker": {"affinity": {"nodeAffinty": {}}}}, "additional properties 'nodeAffinty' not allowed"),
        ({"worker": {"topologySpreadConstraints": [{"topologyKey": "zone"}]}}, "missing properties 'maxSkew'"),
        ({"networkPolicies": {"metricsFrom": [{"podSelektor": {}}]}}, "properties 'podSelektor' not allowed"),
        ({"registry": {"persistence": {"accessModes": ["RWO"]}}}, "value must be one of 'ReadWriteOnce'"),
        ({"uploader": {"ingress": {"enabled": True, "host": "https://a.example.com"}}}, "does not match pattern"),
        ({"config": {"storage": {"driver": "s3"}}}, "config.storage.s3.bucket: name the bucket"),
        ({"registry": {"s3": {"existingSecret": "keys"}}}, "is for config.storage.driver: s3"),
        ({"redis": {"external": {"existingSecret": "url"}}}, "redis: either enabled or external.existingSecret"),
        ({"access": {"existingSecret": "x", "users": {"alice": "$2y$x"}}}, "users are in the htpasswd of that Secret"),
        ({"registry": {"tls": {"certManager": {"enabled": True}}}}, "registry.tls.certManager.issuerRef"),
        ({"registry": {"tls": {"hasAuthority": True}}}, "is about the Secret registry.tls.existingSecret"),
        ({"uploader": {"gateway": {"enabled": True, "host": "a.example.com"}}}, "uploader.gateway.parentRefs"),
        ({"worker": {"autoscaling": {"type": "hpa", "minReplicas": 0}}}, "only keda scales to none"),
        ({"worker": {"autoscaling": {"type": "keda", "minReplicas": 3, "maxReplicas": 2}}}, "more than maxReplicas"),
        ({"monitoring": {"port": 9443}}, "one port each"),
        ({"registry": {"replicas": 2}}, "more than one needs config.storage.driver: s3"),
        ({"redis": {"enabled": False}}, "name the Secret with the URL of a Redis"),
        ({"uploader": {"ingress": {"enabled": True}}}, "uploader.ingress.host"),
        ({"access": {"users": {"controller": "$2y$x"}}}, "controller"),
        ({"access": {"users": {"alice": "secret"}}}, "does not match pattern"),
        (
            {
                "redis": {"enabled": False, "external": {"existingSecret": "x"}},
                "worker": {"autoscaling": {"type": "keda"}},
            },
            "give worker.autoscaling.triggers",
        ),
        (
            {"registry": {"tls": {"existingSecret": "x", "certManager": {"enabled": True}}}},
            "either existingSecret or certManager.enabled",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_the_reason(values: dict[str, Any], message: str) -> None:
    done = try_helm("template", "dvcr", CHART, values=values)

    assert done.returncode != 0
    assert message in done.stderr


def test_values_that_are_taken_away_are_as_if_empty() -> None:
    nothing = {
        "nameOverride": None,
        "image": {"tag": None, "pullSecrets": None},
        "access": {"existingSecret": None, "users": None},
        "redis": {"external": {"existingSecret": None}},
        "registry": {
            "resources": None,
            "nodeSelector": None,
            "tls": {"existingSecret": None},
            "ingress": {"className": None, "tlsSecret": None},
        },
        "uploader": {"tls": {"existingSecret": None}, "ingress": {"annotations": None}},
    }
    empty = {"registry": {"resources": None}}

    assert [*map(_without_passwords, render(nothing))] == [*map(_without_passwords, render(empty))]


def test_names_that_yaml_takes_for_numbers_stay_names() -> None:
    text = helm(
        "template",
        "2",
        CHART,
        "--namespace=7",
        f"--kube-version={KUBERNETES}",
        values={"image": {"pullSecrets": ["1"]}},
    )
    objects = [each for each in yaml.safe_load_all(text) if each]

    names = {name for each in objects for name in _names(each)}
    assert {"1", "2", "7"} <= names
    assert {type(name) for name in names} == {str}
    assert environment(find(objects, "Deployment", "2-dvcr-controller"))["DVCR__CONTROLLER__NAMESPACE"]["value"] == "7"


@pytest.mark.parametrize("part", ["registry", "uploader"])
def test_the_ingress_speaks_what_its_backend_speaks(part: str) -> None:
    prefix = "nginx.ingress.kubernetes.io/"
    limited = {"enabled": True, "host": "a.example.com", "annotations": {f"{prefix}proxy-body-size": "10g"}}
    plain, encrypted = ({"ingress": limited, "tls": {"existingSecret": secret}} for secret in ("", "tls"))
    found = {}
    for name, values in (("plain", plain), ("encrypted", encrypted)):
        objects = render({part: values})
        service = find(objects, "Service", f"dvcr-{part}")["spec"]["ports"][0]
        found[name] = find(objects, "Ingress", f"dvcr-{part}")["metadata"]["annotations"], service.get("appProtocol")

    unlimited = {f"{prefix}proxy-request-buffering": "off", f"{prefix}proxy-buffering": "off"}
    annotations = {**limited["annotations"], **unlimited}  # type: ignore[dict-item]
    assert found["plain"] == (annotations, None)
    assert found["encrypted"] == ({**annotations, f"{prefix}backend-protocol": "HTTPS"}, "https")


def test_a_registry_with_tls_is_never_asked_without() -> None:
    text = find(render({"registry": {"tls": {"existingSecret": "tls"}}}), "ConfigMap", "dvcr-config")["data"][
        "dvcr.toml"
    ]

    assert "plain_http_registries" not in text


def test_every_part_has_what_values_say_of_its_pods() -> None:
    values = CHART / "ci/placement-values.yaml"
    wanted = yaml.safe_load(values.read_text())["registry"]
    found = workloads(render(None, values))

    assert len(found) == 5
    for workload in found:
        metadata, pod = (workload["spec"]["template"][key] for key in ("metadata", "spec"))
        [container] = pod["containers"]
        assert wanted["podLabels"].items() <= metadata["labels"].items()
        assert wanted["podAnnotations"].items() <= metadata["annotations"].items()
        for field in ("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"):
            assert pod[field] == wanted[field]
        for given, taken in (("extraEnv", container["env"]), ("extraVolumeMounts", container["volumeMounts"])):
            assert wanted[given][0] in taken
        assert wanted["extraVolumes"][0] in pod["volumes"]


def test_who_is_called_serves_until_callers_have_heard_that_it_ends() -> None:
    objects = render()
    for part in ("controller", "uploader"):
        pod = find(objects, "Deployment", f"dvcr-{part}")["spec"]["template"]["spec"]
        delay_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert delay_s == 5
        assert pod["terminationGracePeriodSeconds"] >= delay_s + 20
    settings = tomllib.loads(find(objects, "ConfigMap", "dvcr-config")["data"]["dvcr.toml"])
    assert settings["registry"]["drain_delay_s"] == 5


def test_keda_counts_imports_that_wait_and_that_are_under_way(redis_server: RedisServer) -> None:
    board = RedisJobBoard.from_settings(redis_server.settings())
    for name in ("runs", "postponed", "stays"):
        board.submit(ImportJob(id=name, repository=name, tag="1", origin=HttpOrigin(url="http://example.com/x")))
    for owner in ("a", "b"):
        taken = board.take(owner, 60)
    assert taken is not None
    board.postpone(taken.job.id, "b", 60, JobProgress(state=JobState.WAITING))
    objects = render({"worker": {"autoscaling": {"type": "keda"}}})
    triggers = find(objects, "ScaledObject", "dvcr-worker")["spec"]["triggers"]

    # As its scaler counts, by what kind of key it is. Workers that are called may have been called in vain.
    connection = redis.Redis.from_url(redis_server.url.replace("redis+socket", "unix"))
    lengths: dict[Any, Any] = {b"list": connection.llen, b"zset": connection.zcard}
    names = [each["metadata"]["listName"] for each in triggers]
    assert [lengths[connection.type(name)](name) for name in names] == [3, 2]


def test_no_worker_is_missed_where_the_last_may_be_taken_away() -> None:
    def alerts(**autoscaling: Any) -> set[str]:
        values = {"monitoring": {"alerts": {"enabled": True}}, "worker": {"autoscaling": autoscaling}}
        [group] = find(render(values), "PrometheusRule", "dvcr")["spec"]["groups"]
        return {rule["alert"] for rule in group["rules"]}

    assert len(alerts()) > 10
    assert alerts() - alerts(type="keda", minReplicas=0) == {"DvcrNoWorker"}
    assert alerts() == alerts(type="keda", minReplicas=1)


def test_redis_is_started_anew_with_other_settings_only() -> None:
    def annotations(**values: Any) -> dict[str, str]:
        template = find(render({"redis": values}), "Deployment", "dvcr-redis")["spec"]["template"]
        found: dict[str, str] = template["metadata"]["annotations"]
        return found

    # Each has a password of its own.
    assert annotations() == annotations()
    assert annotations() != annotations(maxMemory="1gb")


def test_crds_are_those_of_the_code_and_are_kept(rendered: list[dict[str, Any]]) -> None:
    found = {each["metadata"]["name"]: each for each in rendered if each["kind"] == "CustomResourceDefinition"}
    if not found:
        assert len(rendered) < 20  # crds.install: false
        return

    assert {name: crd["spec"] for name, crd in found.items()} == {c["metadata"]["name"]: c["spec"] for c in crds()}
    assert all(crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for crd in found.values())


def test_names_are_those_that_the_controller_asks_for() -> None:
    objects = render()
    service = find(objects, "APIService", API_SERVICE_NAME)["spec"]["service"]
    webhooks = find(objects, VALIDATING_WEBHOOKS.kind, WEBHOOKS_NAME)["webhooks"]
    ports = find(objects, "Service", service["name"])["spec"]["ports"]
    variables = environment(find(objects, "Deployment", "dvcr-controller"))

    assert [each for each in ports if each["port"] == service["port"]]
    assert variables["DVCR__CONTROLLER__MACHINE_API__SERVICE"]["value"] == service["name"]
    assert variables["DVCR__CONTROLLER__NAMESPACE"]["value"] == service["namespace"] == NAMESPACE
    expected = _configuration("")["webhooks"]
    for ours, theirs in zip(webhooks, expected, strict=True):
        asked = ours["clientConfig"].pop("service")
        assert theirs["clientConfig"].pop("url") == asked["path"]
        assert (asked["name"], asked["namespace"], asked["port"]) == (service["name"], NAMESPACE, 443)
        assert ours == theirs
    [role] = [each for each in objects if each["kind"] == "Role"]
    assert role["rules"][1]["resourceNames"] == [inspect.signature(LeaderLease).parameters["name"].default]
    edit, view = (find(objects, "ClusterRole", f"dvcr-{name}") for name in ("edit", "view"))
    allowed = [name for role in (view, edit) for rule in role["rules"] for name in rule["resources"] if "/" in name]
    cloned = [f"{kind.plural}/{CLONING}" for kind in (IMAGE, DISK)]
    assert sorted(allowed) == sorted([*cloned, *(f"virtualmachines/{name}" for name in SUBRESOURCES)])
    sources = find(objects, "NetworkPolicy", "dvcr-registry")["spec"]["ingress"][0]["from"]
    labels = [source["podSelector"]["matchExpressions"][0]["key"] for source in sources[1:]]
    assert labels == [NAME_LABEL, WORK_LABEL]


def test_logins_fit_their_hashes_and_only_they_may_push() -> None:
    objects = render({"access": {"users": {"alice": "$2y$05$x"}}})
    secret = find(objects, "Secret", "dvcr-access")["data"]
    lines = base64.b64decode(secret["htpasswd"]).decode().splitlines()
    users = dict(line.split(":", 1) for line in lines)

    assert list(users) == ["controller", "worker", "uploader", "alice"]
    for name in ("controller", "worker", "uploader"):
        password = base64.b64decode(secret[name])
        assert len(password) == 40
        assert bcrypt.checkpw(password, users[name].encode())
    access = tomllib.loads(find(objects, "ConfigMap", "dvcr-config")["data"]["dvcr.toml"])["access"]
    policy = Policy(AccessSettings(rules=tuple(map(RuleSettings.model_validate, access["rules"]))))

    def may(user: str, repository: str) -> set[Action]:
        return {action for action in Action if policy.allows(Caller(user), repository, action)}

    for repository in ("cvmi/debian", "vmi/team/debian", "vmd/team/root"):
        assert [may(name, repository) for name in users] == [set(Action)] * 3 + [set()]
    # Whatever else somebody keeps there; the worker finds chunks in it, by their digests.
    assert [may(name, "team/app") for name in users] == [set(), {Action.PULL}, set(), set()]
    assert [policy.pulls_everything(Caller(name)) for name in users] == [False, True, False, False]


def test_helm_can_keep_the_release(rendered: list[dict[str, Any]]) -> None:
    # Compressed and then base64 twice over; the manifest alone is less than half of what may be.
    assert len(gzip.compress(json.dumps(rendered).encode())) * 16 / 9 < MAX_RELEASE_BYTES / 2


def _names(obj: Any) -> Iterator[Any]:
    """Names, namespaces and values of labels, at any depth of what Kubernetes reads."""
    if isinstance(obj, list):
        for each in obj:
            yield from _names(each)
    elif isinstance(obj, dict) and obj.get("kind") != "CustomResourceDefinition":
        for key, value in obj.items():
            if key in ("labels", "matchLabels", "selector") and isinstance(value, dict):
                yield from (each for each in value.values() if not isinstance(each, dict))
            if key in ("name", "namespace", "secretName", "claimName", "serviceAccountName"):
                yield value
            else:
                yield from _names(value)


def _settings(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the default of every setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _settings(type(field.default), (*path, name))
        else:
            yield (*path, name), field.default


def _default_at(path: list[str]) -> Any:
    model: Any = Settings
    for name in path[:-1]:
        model = type(model.model_fields[name].default)
    return model.model_fields[path[-1]].default


def _schema_paths() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    config: dict[str, Any] = schema["properties"]["config"]
    return config


def _set_of_paths(schema: dict[str, Any], path: tuple[str, ...] = ()) -> set[str]:
    found = set()
    for name, each in schema["properties"].items():
        if "properties" in each:
            found |= _set_of_paths(each, (*path, name))
        else:
            found.add(".".join((*path, name)))
    return found


_CHOSEN: dict[str, Any] = {
    "controller.kvm_resource": "example.com/kvm",
    "log.level": "error", "log.style": "json", "storage.driver": "s3", "storage.s3.bucket": "images",
    "storage.s3.endpoint_url": "https://s3.example.com",
    "registry.quotas": {"team/": 2**40, "": 2**50}, "access.groups": {"operators": ["olga"]},
    "access.rules": [{"repositories": ["a/**"], "actions": ["pull"], "users": ["@operators"]}],
    "access.issuers": [{"name": "idp", "issuer": "https://i", "audience": "dvcr", "jwks": "https://i/keys"}],
    "client.ca_pem": "-----BEGIN CERTIFICATE-----\n",
    "access.external_url": "https://registry.example.com", "importer.source_addresses": "public",
    "importer.platform": "linux/arm64", "importer.connections": 7,
    "controller.machine_cidrs": ["10.7.0.0/16"], "controller.address_annotations": {"a.example.com/b": '["{address}"]'},
    "launcher.accelerator": "kvm", "launcher.network": "passt", "launcher.guest_tcp_ports": "22",
    "launcher.guest_udp_ports": "53", "launcher.guest_denied_networks": ["10.0.0.0/8"],
}  # fmt: skip


def _other(path: tuple[str, ...], default: Any) -> Any:
    """A valid value that is not the default."""
    if ".".join(path) in _CHOSEN:
        return _CHOSEN[".".join(path)]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    if isinstance(default, tuple):
        return ["other.example.com"]
    assert isinstance(default, str | Path | None), path
    assert not isinstance(default, SecretStr)
    return "/other/place" if not isinstance(default, str) else "other"


def _filled(wanted: Any, found: Any) -> Any:
    """`wanted` with what defaults add inside of lists."""
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [_filled(ours, theirs) for ours, theirs in zip(wanted, found, strict=True)]
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found | {key: _filled(value, found.get(key)) for key, value in wanted.items()}
    return wanted


def _without_passwords(obj: dict[str, Any]) -> dict[str, Any]:
    """The object but for what is made anew each time, and the sum of it at the pods that have to be started anew."""
    if obj["kind"] == "Secret":
        return {**obj, "data": sorted(obj.get("data", ())), "stringData": sorted(obj.get("stringData", ()))}
    obj.get("spec", {}).get("template", {}).get("metadata", {}).pop("annotations", None)
    return obj


def _kind_and_name(obj: dict[str, Any]) -> tuple[str, str]:
    return obj["kind"], obj["metadata"]["name"]
