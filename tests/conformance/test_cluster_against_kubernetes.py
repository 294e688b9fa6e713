"""The same requests to the embedded API server and to kube-apiserver: the answers are compared."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

from controller.api.resource import GROUP, VERSION
from tests.conformance.test_early_api import MANIFESTS, PATHS
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess
from tests.support.odd_specs import odd

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

MAPS = "/api/v1/namespaces/default/configmaps"
DISKS = f"/apis/{GROUP}/{VERSION}/namespaces/default/virtualmachinedisks"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE, JSON_PATCH, STRATEGIC = (
    f"application/{kind}+json" for kind in ("merge-patch", "json-patch", "strategic-merge-patch")
)
APPLY = "application/apply-patch+yaml"
# What differs between any two servers.
_OWN = {"uid", "resourceVersion", "creationTimestamp", "managedFields", "deletionTimestamp", "continue"}


@dataclass
class Api:
    """One of the servers."""

    process: ClusterProcess

    def __post_init__(self) -> None:
        self._session = self.process.session()

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        """Code and body, without what is each server's own."""
        code, answer = self.raw(method, path, body, **options)
        return code, normal(answer)

    def raw(self, method: str, path: str, body: Any = None, kind: str = "application/json", **options: Any) -> Any:
        headers = {"Content-Type": kind, **options.pop("headers", {})}
        data = None if body is None else json.dumps(body)
        answer = self._session.request(
            method, self.process.url + path, data=data, headers=headers, timeout=30, **options
        )
        return answer.status_code, answer.json()

    def watch(self, path: str, count: int, **parameters: str) -> list[tuple[str, str]]:
        """Type and name of so many events."""
        return [(each["type"], each["object"]["metadata"]["name"]) for each in self.events(path, count, **parameters)]

    def events(self, path: str, count: int, **parameters: str) -> list[Any]:
        """So many events."""
        parameters |= {"watch": "1", "timeoutSeconds": "20"}
        with self._session.get(self.process.url + path, params=parameters, stream=True, timeout=30) as answer:
            return list(islice((json.loads(line) for line in answer.iter_lines() if line), count))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Api]]:
    """The embedded server, and the real one."""
    folders = [tmp_path_factory.mktemp("cluster") for _ in range(2)]
    with ClusterProcess(folders[0]) as embedded, KubernetesProcess(folders[1]) as real:
        yield Api(embedded), Api(real)


def normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: normal(each) for key, each in value.items() if key not in _OWN}
    if isinstance(value, list):
        return [normal(each) for each in value]
    return value


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"a": "1"}}


def disk(name: str, **spec: Any) -> dict[str, Any]:
    spec = spec or {"persistentVolumeClaim": {"size": "1Gi"}}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "VirtualMachineDisk",
        "metadata": {"name": name},
        "spec": spec,
    }


def what_is_not_there(api: Api) -> Iterator[Any]:
    for path in (f"{MAPS}/none", f"{DISKS}/none", "/api/v1/namespaces/none"):
        for method in ("GET", "DELETE"):
            yield api.ask(method, path)
    yield api.ask("PUT", f"{DISKS}/none", disk("none"))
    yield api.ask("PATCH", f"{MAPS}/none", {"data": {"b": "2"}}, kind=MERGE)


def creation(api: Api) -> Iterator[Any]:
    yield api.ask("POST", MAPS, config_map("made"))
    yield api.ask("POST", MAPS, config_map("made"))
    yield api.ask("POST", DISKS, disk("made"))
    yield api.ask("POST", DISKS, disk("made"))
    code, generated = api.raw("POST", MAPS, {**config_map(""), "metadata": {"generateName": "some-"}})
    yield code, generated["metadata"]["name"].startswith("some-")
    yield api.ask("POST", f"{MAPS}?dryRun=All", config_map("dry"))[0], api.ask("GET", f"{MAPS}/dry")[0]


def brief(answer: tuple[int, Any]) -> Any:
    """Of a refusal: code, reason, and the fields that are to blame; messages of validation are each server's own."""
    code, body = answer
    causes = (body.get("details") or {}).get("causes") or ()
    # kube-apiserver adds a cause without a field where it did not look at a schema's `anyOf` because of another one.
    return code, body.get("reason"), sorted({cause["field"] for cause in causes} - {"<nil>"})


def refusals(api: Api) -> Iterator[Any]:
    yield brief(api.ask("POST", MAPS, config_map("Not_A_Name")))
    yield brief(api.ask("POST", DISKS, disk("wrong", persistentVolumeClaim={"size": []})))
    yield brief(api.ask("POST", DISKS, disk("wrong", dataSource={"type": "Nonsense"})))
    yield brief(api.ask("POST", DISKS, {**disk("wrong"), "spec": None}))
    yield brief(api.ask("POST", MAPS, disk("wrong")))
    yield api.raw("POST", MAPS, config_map("wrong"), kind="text/plain")[0]
    api.raw("POST", MAPS, config_map("refused"))
    yield api.raw("PATCH", f"{MAPS}/refused", {}, kind="application/json")[0]


def updates(api: Api) -> Iterator[Any]:
    code, made = api.raw("POST", MAPS, config_map("updated"))
    yield code
    yield api.ask("PUT", f"{MAPS}/updated", {**made, "data": {"a": "2"}})
    yield api.ask("PUT", f"{MAPS}/updated", {**made, "data": {"a": "3"}})
    yield brief(api.ask("PUT", f"{MAPS}/other", made))
    code, made = api.raw("POST", DISKS, disk("updated"))
    yield code, made["metadata"]["generation"]
    code, changed = api.raw("PUT", f"{DISKS}/updated", {**made, "spec": {"persistentVolumeClaim": {"size": "2Gi"}}})
    yield code, changed["metadata"]["generation"]
    code, status = api.raw("PUT", f"{DISKS}/updated/status", {**changed, "spec": {}, "status": {"phase": "Ready"}})
    yield code, normal(status)
    # The status is not part of the object's own update.
    yield api.ask("PUT", f"{DISKS}/updated", {**status, "status": {"phase": "Failed"}})


def patches(api: Api) -> Iterator[Any]:
    api.raw("POST", MAPS, config_map("patched", labels={"x": "1", "y": "1"}))
    at = f"{MAPS}/patched"
    yield api.ask("PATCH", at, {"data": {"a": None, "b": "2"}}, kind=MERGE)
    yield api.ask("PATCH", at, {"metadata": {"labels": {"x": None}}}, kind=STRATEGIC)
    yield api.ask("PATCH", at, [{"op": "add", "path": "/data/c", "value": "3"}], kind=JSON_PATCH)
    yield api.ask("PATCH", at, [{"op": "test", "path": "/data/c", "value": "4"}], kind=JSON_PATCH)[0]
    yield api.ask("PATCH", at, [{"op": "remove", "path": "/data/none"}], kind=JSON_PATCH)[0]
    yield api.ask("PATCH", at, {"metadata": {"resourceVersion": "1"}}, kind=MERGE)[0]
    api.raw("POST", DISKS, disk("patched"))
    yield api.ask("PATCH", f"{DISKS}/patched", {"spec": {"persistentVolumeClaim": {"size": "3Gi"}}}, kind=MERGE)
    yield api.ask("PATCH", f"{DISKS}/patched", {"spec": {}}, kind=STRATEGIC)[0]
    yield api.ask("PATCH", f"{DISKS}/patched/status", {"status": {"phase": "Ready"}}, kind=MERGE)


def lists(api: Api) -> Iterator[Any]:
    for number in range(5):
        api.raw("POST", MAPS, config_map(f"listed-{number}", labels={"list": "yes", "number": str(number)}))
    everything = "labelSelector=list%3Dyes"
    pages, at = [], f"{MAPS}?{everything}&limit=2"
    while True:
        code, page = api.raw("GET", at)
        pages.append((code, [each["metadata"]["name"] for each in page["items"]]))
        if not page["metadata"].get("continue"):
            break
        at = f"{MAPS}?{everything}&limit=2&continue={page['metadata']['continue']}"
    yield pages
    for selector in (
        "number in (1,2)", "number notin (1,2),list", "!list,number", "number!=1,list=yes", "number=1,number=2",
        "number in (", "=",
    ):  # fmt: skip
        code, found = api.raw("GET", MAPS, params={"labelSelector": selector})
        yield selector, code, sorted(each["metadata"]["name"] for each in found.get("items", ()))
    for selector in ("metadata.name=listed-1", "metadata.name!=listed-1,metadata.namespace=none", "spec.none=1"):
        code, found = api.raw("GET", MAPS, params={"fieldSelector": selector})
        yield selector, code, sorted(each["metadata"]["name"] for each in found.get("items", ()))
    yield api.raw("GET", f"{MAPS}?continue=nonsense")[0]


def deletion(api: Api) -> Iterator[Any]:
    api.raw("POST", MAPS, config_map("deleted"))
    yield api.ask("DELETE", f"{MAPS}/deleted", {"preconditions": {"uid": "another"}})[0]
    yield api.ask("DELETE", f"{MAPS}/deleted", {"dryRun": ["All"]})[0], api.ask("GET", f"{MAPS}/deleted")[0]
    code, answer = api.raw("DELETE", f"{MAPS}/deleted")
    yield code, answer["kind"], answer["status"], {key: answer["details"][key] for key in ("name", "kind")}
    api.raw("POST", MAPS, config_map("held", finalizers=["example.com/held"]))
    code, held = api.raw("DELETE", f"{MAPS}/held")
    yield code, "deletionTimestamp" in held["metadata"], held["metadata"]["finalizers"]
    yield brief(api.ask("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": ["example.com/b"]}}, kind=MERGE))
    yield api.raw("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": []}}, kind=MERGE)[0]
    yield api.ask("GET", f"{MAPS}/held")[0]
    for number in range(3):
        api.raw("POST", MAPS, config_map(f"many-{number}", labels={"many": "yes"}))
    yield api.raw("DELETE", f"{MAPS}?labelSelector=many%3Dyes")[0]
    yield api.raw("GET", f"{MAPS}?labelSelector=many%3Dyes")[1]["items"]


def watches(api: Api) -> Iterator[Any]:
    version = api.raw("GET", MAPS)[1]["metadata"]["resourceVersion"]
    labels = {"watched": "yes"}
    api.raw("POST", MAPS, config_map("watched-1", labels=labels))
    api.raw("POST", MAPS, config_map("watched-2", labels=labels))
    api.raw("PATCH", f"{MAPS}/watched-1", {"data": {"b": "2"}}, kind=MERGE)
    # Out of the selection, and into it again.
    api.raw("PATCH", f"{MAPS}/watched-2", {"metadata": {"labels": {"watched": "no"}}}, kind=MERGE)
    api.raw("PATCH", f"{MAPS}/watched-2", {"metadata": {"labels": {"watched": "yes"}}}, kind=MERGE)
    api.raw("DELETE", f"{MAPS}/watched-1")
    yield api.watch(MAPS, 6, labelSelector="watched=yes", resourceVersion=version)
    yield sorted(api.watch(MAPS, 1, labelSelector="watched=yes"))


def tables(api: Api) -> Iterator[Any]:
    api.raw("POST", DISKS, disk("shown"))
    code, table = api.raw("GET", f"{DISKS}/shown", headers={"Accept": TABLE})
    columns = [(column["name"], column["type"], column["priority"]) for column in table["columnDefinitions"]]
    cells = [row["cells"][:-1] for row in table["rows"]]  # the last one is the age
    yield code, table["kind"], columns, cells


def built_in_tables(api: Api) -> Iterator[Any]:
    api.raw("POST", MAPS, {**config_map("shown"), "binaryData": {"b": "aGk="}})
    secrets, pods = MAPS.replace("configmaps", "secrets"), MAPS.replace("configmaps", "pods")
    api.raw("POST", secrets, {"metadata": {"name": "shown"}, "data": {"a": "MQ=="}})
    api.raw("POST", pods, pod("shown"))
    for path in (f"{MAPS}/shown", f"{secrets}/shown", f"{pods}/shown"):
        table = api.raw("GET", path, headers={"Accept": TABLE})[1]
        columns = [(column["name"], column["priority"]) for column in table["columnDefinitions"]]
        ages = {index for index, (name, _) in enumerate(columns) if name == "Age"}
        yield columns, [cell for index, cell in enumerate(table["rows"][0]["cells"]) if index not in ages]


def bookmarks(api: Api) -> Iterator[Any]:
    labels = {"marked": "yes"}
    for number in range(3):
        api.raw("POST", MAPS, config_map(f"marked-{number}", labels=labels))
    selected = {"labelSelector": "marked=yes", "allowWatchBookmarks": "true"}
    listing = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    events = api.events(MAPS, 4, **selected, **listing)
    yield sorted(event["object"]["metadata"].get("name", "") for event in events[:3])
    yield events[3]["type"], events[3]["object"]["kind"], events[3]["object"]["metadata"]["annotations"]
    # Where the bookmark is, one goes on: nothing is told again, and nothing left out.
    version = events[3]["object"]["metadata"]["resourceVersion"]
    api.raw("DELETE", f"{MAPS}/marked-1")
    yield api.watch(MAPS, 1, labelSelector="marked=yes", resourceVersion=version)
    yield api.raw("GET", MAPS, params={"watch": "1", "sendInitialEvents": "true"})[0]


def pod(name: str, *containers: dict[str, Any]) -> dict[str, Any]:
    spec = {"containers": [*containers] or [{"name": "main", "image": "x:1"}], "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def applied(api: Api, path: str, obj: dict[str, Any], manager: str, query: str = "") -> Any:
    """The answer to applying, with who owns what."""
    code, answer = api.raw("PATCH", f"{path}?fieldManager={manager}{query}", obj, kind=APPLY)
    if code >= 400:
        return code, answer["reason"], answer["message"], answer["details"]["causes"]
    return code, normal(answer).get("data") or normal(answer).get("spec", {}).get("containers"), owners(answer)


def owners(obj: dict[str, Any]) -> list[Any]:
    entries = obj["metadata"]["managedFields"]
    return sorted(
        (each["manager"], each["operation"], each.get("subresource", ""), json.dumps(each["fieldsV1"], sort_keys=True))
        for each in entries
    )


def applying(api: Api) -> Iterator[Any]:
    at = f"{MAPS}/applied"

    def of(manager: str, query: str = "", **data: str) -> Any:
        return applied(api, at, {**config_map("applied"), "data": data}, manager, query)

    yield of("one", a="1", b="2")
    version = api.raw("GET", at)[1]["metadata"]["resourceVersion"]
    yield of("one", a="1", b="2")
    yield api.raw("GET", at)[1]["metadata"]["resourceVersion"] == version
    yield of("two", c="3")
    yield of("two", c="3", a="1")  # the same value: both own it
    yield of("two", c="3", a="9")
    yield of("two", "&force=true", c="3", a="9", b="9")
    yield of("one", d="4")  # what others own stays
    yield of("two", c="3")  # what nobody else owns goes
    code, changed = api.raw("PATCH", f"{at}?fieldManager=three", {"data": {"c": "5", "e": "6"}}, kind=MERGE)
    yield code, normal(changed)["data"], owners(changed)
    yield of("two", c="7")
    yield of("two", "&force=true&dryRun=All", c="7")
    yield normal(api.raw("GET", at)[1])["data"]
    yield api.raw("PATCH", at, config_map("applied"), kind=APPLY)[0]
    yield api.raw("PATCH", f"{at}?fieldManager=x", config_map("another"), kind=APPLY)[0]
    yield api.raw("PATCH", f"{at}?fieldManager=x", {"data": {}}, kind=APPLY)[0]


def applying_lists(api: Api) -> Iterator[Any]:
    at = MAPS.replace("configmaps", "pods") + "/applied"

    def of(manager: str, *containers: dict[str, Any], query: str = "") -> Any:
        return applied(api, at, pod("applied", *containers), manager, query)

    one, two = ({"name": name, "image": "x:1", "terminationMessagePath": f"/{name}"} for name in ("one", "two"))
    yield of("first", one, two)
    yield of("second", {"name": "two", "image": "x:2"})
    yield of("second", {"name": "two", "image": "x:2"}, query="&force=true")
    labelled = {
        **pod("applied"),
        "metadata": {"name": "applied", "labels": {"a": "b"}, "finalizers": ["example.com/f"]},
    }
    del labelled["spec"]
    code, answer = api.raw("PATCH", f"{at}?fieldManager=third", labelled, kind=APPLY)
    yield code, answer["metadata"]["labels"], answer["metadata"]["finalizers"], owners(answer)
    del labelled["metadata"]["finalizers"]
    code, answer = api.raw("PATCH", f"{at}?fieldManager=third", labelled, kind=APPLY)
    yield code, answer["metadata"].get("finalizers"), owners(answer)


def applying_kinds(api: Api) -> Iterator[Any]:
    at = f"{DISKS}/applied"

    def of(manager: str, size: str, query: str = "", path: str = at) -> Any:
        obj = {**disk("applied", persistentVolumeClaim={"size": size}), "status": {"phase": "Ready"}}
        code, answer = api.raw("PATCH", f"{path}?fieldManager={manager}{query}", obj, kind=APPLY)
        if code >= 400:
            return code, answer["reason"], answer["details"]["causes"]
        return code, answer["spec"], answer.get("status"), answer["metadata"]["generation"], owners(answer)

    yield of("one", "1Gi")
    yield of("two", "2Gi")
    yield of("two", "2Gi", "&force=true")
    yield of("status", "9Gi", path=f"{at}/status")
    yield api.raw("PATCH", f"{DISKS}/none/status?fieldManager=x", disk("none"), kind=APPLY)[0]


def discovery(api: Api) -> Iterator[Any]:
    kinds = api.raw("GET", f"/apis/{GROUP}/{VERSION}")[1]["resources"]
    for kind in sorted(kinds, key=lambda each: each["name"]):
        verbs = sorted(kind["verbs"])
        names = kind.get("singularName"), kind.get("shortNames"), kind.get("categories")
        yield kind["name"], kind["kind"], kind["namespaced"], verbs, names
    yield api.raw("GET", f"/apis/{GROUP}")[1]["preferredVersion"]


def odd_specs(api: Api) -> Iterator[Any]:
    luck = random.Random(1)
    for _ in range(2000):
        manifest = luck.choice(MANIFESTS)
        spec = odd(manifest["spec"], luck)
        # The names that the kinds demand are another test's.
        code, answer = api.raw("POST", f"{PATHS[manifest['kind']]}?dryRun=All", {**manifest, "spec": spec})
        yield manifest["kind"], spec, code, answer.get("spec")


SCENARIOS = [
    what_is_not_there, creation, refusals, updates, patches, lists, deletion, watches, tables, discovery, odd_specs,
    built_in_tables, bookmarks, applying, applying_lists, applying_kinds,
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_both_answer_the_same(scenario: Callable[[Api], Iterator[Any]], both: tuple[Api, Api]) -> None:
    embedded, real = both
    for number, (ours, theirs) in enumerate(zip(scenario(embedded), scenario(real), strict=True)):
        assert ours == theirs, f"answer {number}: {ours}\n{theirs}"
