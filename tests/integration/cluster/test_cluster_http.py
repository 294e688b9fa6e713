"""The API as a peer sees it: exact codes, reasons and bodies."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.cluster import ClusterProcess
from tests.support.embedded_api import CONFIG_MAPS, MERGE, PODS, THING_CRD, THINGS, Api, config_map
from tests.support.kubelet import answering


def thing(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "test.dvcr.io/v1", "kind": "Thing", "metadata": {"name": name}, "spec": {"size": 1, **spec}}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "x", "command": ["true"]}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def test_everything_but_health_and_version_needs_the_token(api: Api) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(api.cluster.ca_file)
        for path in ("/healthz", "/readyz", "/livez", "/version"):
            assert session.get(api.cluster.url + path).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = session.get(api.cluster.url + "/api/v1/secrets", headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized")


def test_credentials_are_private(api: Api) -> None:
    data = api.cluster.root / "data"
    private: list[Path] = [api.cluster.kubeconfig, data / "token", data / "ca.key", data / "server.key"]
    assert [file.stat().st_mode & 0o777 for file in private] == [0o600] * 4
    assert data.stat().st_mode & 0o777 == 0o700


def test_create_fills_in_the_metadata_and_refuses_a_second_one(api: Api) -> None:
    made = api("POST", CONFIG_MAPS, config_map("made"), code=201)
    assert {"uid", "creationTimestamp", "resourceVersion"} <= set(made["metadata"])
    assert api("GET", f"{CONFIG_MAPS}/made") == made
    refused = api("POST", CONFIG_MAPS, config_map("made"), code=409)
    assert refused["reason"] == "AlreadyExists"
    assert refused["message"] == 'configmaps "made" already exists'
    assert refused["details"] == {"name": "made", "kind": "configmaps"}


def test_generate_name(api: Api) -> None:
    body = {"metadata": {"generateName": "gen-"}}
    names = {api("POST", CONFIG_MAPS, body, code=201)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("gen-") for name in names)


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "reason"),
    [
        ("GET", f"{CONFIG_MAPS}/absent", None, 404, "NotFound"),
        ("GET", "/api/v1/gadgets", None, 404, "NotFound"),
        ("GET", "/apis/nowhere.io/v1/gadgets", None, 404, "NotFound"),
        ("POST", "/api/v1/namespaces/missing/configmaps", config_map("x"), 404, "NotFound"),
        ("POST", CONFIG_MAPS, config_map("Wrong_Name"), 422, "Invalid"),
        ("POST", CONFIG_MAPS, {"metadata": {}}, 422, "Invalid"),
        ("POST", CONFIG_MAPS, [1], 400, "BadRequest"),
        ("POST", CONFIG_MAPS, config_map("x", namespace="other"), 400, "BadRequest"),
        ("POST", CONFIG_MAPS, {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "x"}}, 400, "BadRequest"),
        ("POST", CONFIG_MAPS, config_map("x", resourceVersion="1"), 400, "BadRequest"),
        ("PUT", CONFIG_MAPS, config_map("x"), 405, "MethodNotAllowed"),
        ("PUT", f"{CONFIG_MAPS}/absent", config_map("absent"), 404, "NotFound"),
        ("DELETE", "/api/v1/namespaces/default", None, 403, "Forbidden"),
        ("GET", f"{CONFIG_MAPS}?labelSelector=a+b", None, 400, "BadRequest"),
        ("GET", f"{CONFIG_MAPS}?fieldSelector=data.a=1", None, 400, "BadRequest"),
        ("GET", f"{CONFIG_MAPS}?limit=x", None, 400, "BadRequest"),
        ("GET", f"{CONFIG_MAPS}?watch=true&resourceVersion=999999", None, 410, "Expired"),
        ("PATCH", f"{THINGS}/x", {}, 404, "NotFound"),
    ],
)
def test_refusals_are_statuses(api: Api, method: str, path: str, body: Any, code: int, reason: str) -> None:
    headers = MERGE if method == "PATCH" else None
    answer = api(method, path, body, code=code, headers=headers)
    assert (answer["kind"], answer["status"], answer["reason"], answer["code"]) == ("Status", "Failure", reason, code)


def test_a_stale_update_conflicts_and_an_equal_one_writes_nothing(api: Api) -> None:
    made = api("POST", CONFIG_MAPS, config_map("stale"), code=201)
    changed = api("PUT", f"{CONFIG_MAPS}/stale", {**made, "data": {"a": "2"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    refused = api("PUT", f"{CONFIG_MAPS}/stale", {**made, "data": {"a": "3"}}, code=409)
    assert refused["reason"] == "Conflict"
    assert "the object has been modified" in refused["message"]
    assert api("PUT", f"{CONFIG_MAPS}/stale", changed) == changed


def test_generation_and_status_are_apart(api: Api) -> None:
    made = api("POST", THINGS, {**thing("parts"), "status": {"phase": "Forged"}}, code=201)
    assert made["metadata"]["generation"] == 1
    assert "status" not in made
    assert made["spec"] == {"size": 1, "mode": "Fast"}
    body = {"spec": {"size": 9}, "status": {"phase": "Ready"}, "metadata": {"labels": {"a": "b"}}}
    status = api("PATCH", f"{THINGS}/parts/status", body, headers=MERGE)
    assert (status["spec"]["size"], status["status"]["phase"]) == (1, "Ready")
    assert status["metadata"]["generation"] == 1
    assert "labels" not in status["metadata"]
    spec = api("PATCH", f"{THINGS}/parts", {"spec": {"size": 2}, "status": {"phase": "Forged"}}, headers=MERGE)
    assert (spec["spec"]["size"], spec["status"]["phase"], spec["metadata"]["generation"]) == (2, "Ready", 2)
    labelled = api("PATCH", f"{THINGS}/parts", {"metadata": {"labels": {"a": "b"}}}, headers=MERGE)
    assert labelled["metadata"]["generation"] == 2
    without_version = {**labelled, "metadata": {"name": "parts"}}
    assert api("PUT", f"{THINGS}/parts", without_version, code=422)["reason"] == "Invalid"


def test_invalid_fields_are_named(api: Api) -> None:
    body = thing("wrong", size=0, mode="Lazy")
    refused = api("POST", THINGS, body, code=422)
    assert refused["details"]["kind"] == "Thing"
    causes = {cause["field"]: cause["reason"] for cause in refused["details"]["causes"]}
    assert causes == {"spec.size": "FieldValueInvalid", "spec.mode": "FieldValueNotSupported"}
    assert 'Thing.test.dvcr.io "wrong" is invalid: [spec.size: Invalid value: 0' in refused["message"]
    missing = api("POST", THINGS, {**body, "spec": {}}, code=422)
    assert missing["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.size"}
    ]


def test_unknown_fields_are_refused_or_pruned_with_a_warning(api: Api) -> None:
    refused = api("POST", f"{THINGS}?fieldValidation=Strict", thing("unknown", foo=1), code=400)
    assert 'strict decoding error: unknown field "spec.foo"' in refused["message"]
    answer = api.http.post(api.cluster.url + THINGS, json=thing("unknown", foo=1))
    assert answer.json()["spec"] == {"size": 1, "mode": "Fast"}
    assert answer.headers["Warning"] == '299 - "unknown field \\"spec.foo\\""'


def test_admission_names_the_field(api: Api) -> None:
    image = {
        "apiVersion": "virtualization.deckhouse.io/v1alpha2",
        "kind": "ClusterVirtualMachineImage",
        "metadata": {"name": "wrong"},
        "spec": {"dataSource": {"type": "HTTP"}},
    }
    path = "/apis/virtualization.deckhouse.io/v1alpha2/clustervirtualmachineimages"
    refused = api("POST", path, image, code=422)
    assert refused["details"]["causes"][0]["field"].startswith("spec.dataSource")


def test_json_patch_and_unsupported_patches(api: Api) -> None:
    api("POST", THINGS, thing("patched"), code=201)
    kind = {"Content-Type": "application/json-patch+json"}
    patch = [{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 5}]
    assert api("PATCH", f"{THINGS}/patched", patch, headers=kind)["spec"]["size"] == 5
    assert api("PATCH", f"{THINGS}/patched", patch, headers=kind, code=422)["reason"] == "Invalid"
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    assert api("PATCH", f"{THINGS}/patched", {}, headers=strategic, code=415)["reason"] == "UnsupportedMediaType"


def test_what_is_applied_is_made_and_has_an_owner(api: Api) -> None:
    kind = {"Content-Type": "application/apply-patch+yaml"}
    at = f"{THINGS}/applied"
    refused = api("PATCH", at, thing("applied"), headers=kind, code=422)
    assert "fieldManager: Required value" in refused["message"]
    made = api("PATCH", f"{at}?fieldManager=one", thing("applied"), headers=kind, code=201)
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == ["one"]
    again = api("PATCH", f"{at}?fieldManager=one", thing("applied"), headers=kind)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    changed = thing("applied")
    changed["spec"]["size"] += 1
    assert api("PATCH", f"{at}?fieldManager=two", changed, headers=kind, code=409)["reason"] == "Conflict"
    forced = api("PATCH", f"{at}?fieldManager=two&force=true", changed, headers=kind)
    assert forced["spec"]["size"] == changed["spec"]["size"]


def test_dry_run_keeps_nothing(api: Api) -> None:
    assert api("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("dry"), code=201)["metadata"]["uid"]
    api("GET", f"{CONFIG_MAPS}/dry", code=404)
    api("POST", CONFIG_MAPS, config_map("dry"), code=201)
    api("DELETE", f"{CONFIG_MAPS}/dry?dryRun=All")
    api("GET", f"{CONFIG_MAPS}/dry")


def test_finalizers_hold_an_object_back(api: Api) -> None:
    made = api("POST", CONFIG_MAPS, config_map("held", finalizers=["test/hold"]), code=201)
    marked = api("DELETE", f"{CONFIG_MAPS}/held")
    assert marked["metadata"]["deletionTimestamp"]
    more = {"metadata": {"finalizers": ["test/hold", "test/late"]}}
    assert api("PATCH", f"{CONFIG_MAPS}/held", more, headers=MERGE, code=422)["reason"] == "Invalid"
    api("PATCH", f"{CONFIG_MAPS}/held", {"metadata": {"finalizers": None}}, headers=MERGE)
    api("GET", f"{CONFIG_MAPS}/held", code=404)
    again = api("POST", CONFIG_MAPS, config_map("held"), code=201)
    assert again["metadata"]["uid"] != made["metadata"]["uid"]
    wrong = {"preconditions": {"uid": made["metadata"]["uid"]}}
    assert api("DELETE", f"{CONFIG_MAPS}/held", wrong, code=409)["reason"] == "Conflict"
    assert api("DELETE", f"{CONFIG_MAPS}/held")["details"]["uid"] == again["metadata"]["uid"]


def owned(name: str, owner: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    reference = {
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }  # fmt: skip
    return config_map(name, ownerReferences=[reference], **metadata)


def test_dependents_go_with_their_owner(api: Api) -> None:
    owner = api("POST", CONFIG_MAPS, config_map("owner"), code=201)
    child = api("POST", CONFIG_MAPS, owned("child", owner), code=201)
    api("POST", CONFIG_MAPS, owned("grandchild", child), code=201)
    api("DELETE", f"{CONFIG_MAPS}/owner")
    for name in ("owner", "child", "grandchild"):
        api("GET", f"{CONFIG_MAPS}/{name}", code=404)
    api("POST", CONFIG_MAPS, owned("late", owner), code=201)
    api("GET", f"{CONFIG_MAPS}/late", code=404)


def test_foreground_waits_for_dependents_and_orphan_spares_them(api: Api) -> None:
    owner = api("POST", CONFIG_MAPS, config_map("fore"), code=201)
    api("POST", CONFIG_MAPS, owned("fore-child", owner, finalizers=["test/hold"]), code=201)
    marked = api("DELETE", f"{CONFIG_MAPS}/fore", {"propagationPolicy": "Foreground"})
    assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert api("GET", f"{CONFIG_MAPS}/fore-child")["metadata"]["deletionTimestamp"]
    api("PATCH", f"{CONFIG_MAPS}/fore-child", {"metadata": {"finalizers": None}}, headers=MERGE)
    api("GET", f"{CONFIG_MAPS}/fore", code=404)
    owner = api("POST", CONFIG_MAPS, config_map("parent"), code=201)
    api("POST", CONFIG_MAPS, owned("spared", owner), code=201)
    api("DELETE", f"{CONFIG_MAPS}/parent?propagationPolicy=Orphan")
    assert "ownerReferences" not in api("GET", f"{CONFIG_MAPS}/spared")["metadata"]


def test_a_bound_pod_is_deleted_by_its_node(api: Api) -> None:
    made = api("POST", PODS, pod("graceful"), code=201)
    assert (made["status"]["phase"], made["spec"]["restartPolicy"]) == ("Pending", "Always")
    binding = {"target": {"kind": "Node", "name": "local"}}
    api("POST", f"{PODS}/graceful/binding", binding, code=201)
    assert api("POST", f"{PODS}/graceful/binding", binding, code=409)["reason"] == "Conflict"
    changed = {"spec": {"nodeName": "other"}}
    assert api("PATCH", f"{PODS}/graceful", changed, headers=MERGE, code=422)["reason"] == "Invalid"
    marked = api("DELETE", f"{PODS}/graceful", {"gracePeriodSeconds": 20})
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    api("PATCH", f"{PODS}/graceful/status", {"status": {"phase": "Failed"}}, headers=MERGE)
    api("GET", f"{PODS}/graceful")
    assert api("DELETE", f"{PODS}/graceful", {"gracePeriodSeconds": 0})["kind"] == "Pod"
    api("GET", f"{PODS}/graceful", code=404)
    api("POST", PODS, pod("unbound"), code=201)
    api("DELETE", f"{PODS}/unbound")
    api("GET", f"{PODS}/unbound", code=404)


def test_a_namespace_takes_its_content_along(api: Api) -> None:
    api("POST", "/api/v1/namespaces", {"metadata": {"name": "short"}}, code=201)
    api("POST", "/api/v1/namespaces/short/configmaps", config_map("held", finalizers=["test/hold"]), code=201)
    api("POST", "/apis/test.dvcr.io/v1/namespaces/short/things", thing("gone"), code=201)
    assert api("DELETE", "/api/v1/namespaces/short")["status"]["phase"] == "Terminating"
    api("GET", "/apis/test.dvcr.io/v1/namespaces/short/things/gone", code=404)
    assert api("POST", "/api/v1/namespaces/short/configmaps", config_map("x"), code=403)["reason"] == "Forbidden"
    unheld: dict[str, Any] = {"metadata": {"finalizers": []}}
    api("PATCH", "/api/v1/namespaces/short/configmaps/held", unheld, headers=MERGE)
    api("GET", "/api/v1/namespaces/short", code=404)


def test_deleting_a_crd_deletes_its_objects(api: Api) -> None:
    crd = json.loads(json.dumps(THING_CRD).replace("things", "gadgets").replace("Thing", "Gadget"))
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    made = api("POST", crds, crd, code=201)
    assert {"Established", "NamesAccepted"} <= {each["type"] for each in made["status"]["conditions"]}
    path = "/apis/test.dvcr.io/v1/namespaces/default/gadgets"
    api("POST", path, {**thing("one"), "kind": "Gadget"}, code=201)
    api("DELETE", f"{crds}/gadgets.test.dvcr.io")
    api("GET", path, code=404)
    api("POST", crds, crd, code=201)
    assert api("GET", path)["items"] == []


def test_a_crd_that_could_not_be_served_is_refused(api: Api) -> None:
    crd = json.loads(json.dumps(THING_CRD).replace("things", "broken"))
    version = crd["spec"]["versions"][0]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] |= {
        "size": {"type": "int"},
        "mode": {"type": "string", "pattern": "("},
    }
    version["storage"] = False
    refused = api("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd, code=422)
    inside = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties"
    fields = [cause["field"] for cause in refused["details"]["causes"]]
    assert fields == ["spec.versions", f"{inside}[size].type", f"{inside}[mode].pattern"]


@pytest.mark.parametrize("body", [b"{", b'{"data": NaN}', b"[" * 100_000, b"\xff", b'{"metadata": 1}', b'"text"'])
def test_bodies_that_are_no_objects_are_refused(api: Api, body: bytes) -> None:
    answer = api.http.post(api.cluster.url + CONFIG_MAPS, data=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["reason"]) == (400, "BadRequest")


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    body = config_map("large") | {"data": {"a": "x" * (5 * 2**20)}}
    assert api("POST", CONFIG_MAPS, body, code=413)["reason"] == "RequestEntityTooLarge"


def test_secrets_take_text_and_refuse_what_is_no_base64(api: Api) -> None:
    path = "/api/v1/namespaces/default/secrets"
    made = api("POST", path, {"metadata": {"name": "text"}, "stringData": {"a": "hello"}}, code=201)
    assert (made["data"], made["type"], "stringData" in made) == ({"a": "aGVsbG8="}, "Opaque", False)
    refused = api("POST", path, {"metadata": {"name": "wrong"}, "data": {"a": "%"}}, code=422)
    assert refused["details"]["causes"][0]["field"] == "data[a]"


def test_selectors_pages_and_deletecollection(api: Api) -> None:
    for index in range(7):
        api("POST", CONFIG_MAPS, config_map(f"page-{index}", labels={"page": str(index % 2), "set": "pages"}), code=201)
    names: list[str] = []
    token = ""
    while True:
        page = api("GET", f"{CONFIG_MAPS}?labelSelector=set%3Dpages&limit=3&continue={token}")
        assert len(page["items"]) <= 3
        names += [each["metadata"]["name"] for each in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert names == [f"page-{index}" for index in range(7)]
    assert len(api("GET", f"{CONFIG_MAPS}?labelSelector=set,page+in+(1)")["items"]) == 3
    assert len(api("GET", f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Dpage-1")["items"]) == 1
    deleted = api("DELETE", f"{CONFIG_MAPS}?labelSelector=set%3Dpages,page!%3D0")
    assert len(deleted["items"]) == 3
    assert len(api("GET", f"{CONFIG_MAPS}?labelSelector=set")["items"]) == 4


def test_a_table_has_the_printer_columns(api: Api) -> None:
    api("POST", THINGS, thing("shown"), code=201)
    api("PATCH", f"{THINGS}/shown/status", {"status": {"phase": "Ready"}}, headers=MERGE)
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    found = api("GET", f"{THINGS}/shown", headers=accept)
    assert [column["name"] for column in found["columnDefinitions"]] == ["Name", "Phase"]
    assert found["rows"][0]["cells"] == ["shown", "Ready"]


def test_logs_come_from_the_node(api: Api) -> None:
    api("POST", PODS, pod("logged"), code=201)
    assert "does not have a host" in api("GET", f"{PODS}/logged/log", code=400)["message"]
    api("POST", f"{PODS}/logged/binding", {"target": {"name": "worker"}}, code=201)
    assert api("GET", f"{PODS}/logged/log", code=503)["reason"] == "ServiceUnavailable"
    with answering(b"hello\n") as kubelet:
        api("POST", "/api/v1/nodes", {"metadata": {"name": "worker"}}, code=201)
        api("PATCH", "/api/v1/nodes/worker/status", {"status": kubelet.status()}, headers=MERGE)
        answer = api.http.get(f"{api.cluster.url}{PODS}/logged/log?tailLines=5&container=main")
    assert answer.text == "hello\n"
    assert kubelet.asked == ["/containerLogs/default/logged/main?tailLines=5"]


def test_it_stops_cleanly_with_watches_open_and_takes_up_its_port_again(cluster: ClusterProcess) -> None:
    api = Api(cluster)
    events = api.watch(CONFIG_MAPS)
    api("POST", CONFIG_MAPS, config_map("kept"), code=201)
    assert next(events)["type"] == "ADDED"
    before = time.monotonic()
    assert cluster.stop() == 0
    assert time.monotonic() - before < 5
    cluster.start()
    assert Api(cluster)("GET", f"{CONFIG_MAPS}/kept")["data"] == {"a": "1"}


def test_kill_in_the_middle_of_writes_keeps_every_acknowledged_one(cluster: ClusterProcess) -> None:
    api = Api(cluster)
    start = api("GET", CONFIG_MAPS)["metadata"]["resourceVersion"]
    acknowledged: dict[str, int] = {}
    enough = threading.Event()

    def write(number: int) -> None:
        mine = Api(cluster)
        for index in range(100_000):
            name = f"k{number}-{index}"
            try:
                made = mine("POST", CONFIG_MAPS, config_map(name), code=201)
            except requests.RequestException:
                return
            acknowledged[name] = int(made["metadata"]["resourceVersion"])
            if len(acknowledged) > 100:
                enough.set()

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, number) for number in range(3)]
        assert enough.wait(30)
        cluster.kill()
        for each in writing:
            each.result()
    token = cluster.token
    cluster.start()
    assert cluster.token == token
    found = {each["metadata"]["name"]: int(each["metadata"]["resourceVersion"])
             for each in api("GET", CONFIG_MAPS)["items"]}  # fmt: skip
    assert acknowledged.items() <= found.items()
    # A watch from before the kill goes on as if nothing had been.
    resumed = list(api.watch(CONFIG_MAPS, resourceVersion=start, timeoutSeconds=1))
    assert {event["object"]["metadata"]["name"] for event in resumed} == set(found)
    newest = int(api("POST", CONFIG_MAPS, config_map("after"), code=201)["metadata"]["resourceVersion"])
    assert newest > max(found.values())
