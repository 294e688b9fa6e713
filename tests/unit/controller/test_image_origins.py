"""Data sources that name Secrets and images: what a worker is sent, and what is waited for."""

import base64
import json

from pydantic import SecretStr

from controller.api.resource import CLUSTER_IMAGE, DISK, IMAGE, SECRET, Resource
from dvcr.jobs.job import ContainerOrigin, HttpOrigin, ImageOrigin, ImportJob
from tests.unit.controller.world import World

CONTAINER = {"type": "ContainerImage", "containerImage": {"image": "quay.io/a/b:1", "imagePullSecret": {"name": "s"}}}
CONFIG = json.dumps({"auths": {"quay.io": {"auth": "dTpw"}}})


def http(namespace: str = "") -> dict[str, object]:
    reference = {"name": "s"} | ({"namespace": namespace} if namespace else {})
    return {"type": "HTTP", "http": {"url": "https://x/y.img", "secretRef": reference}}


def add_secret(world: World, namespace: str = "default", **data: str) -> None:
    encoded = {key.replace("_", ".", 1): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}, "data": encoded}
    world.cluster.create(SECRET, secret)
    world.settle()


def waiting(world: World, resource: Resource, name: str) -> tuple[str, str, str]:
    condition = world.condition(resource, name, "Ready")
    return world.status(resource, name)["phase"], condition["reason"], condition["message"]


def test_credentials_and_headers_of_a_secret_go_to_the_worker_and_nowhere_else() -> None:
    world = World()
    world.apply(IMAGE, "a", {"dataSource": http()})
    message = "waits for Secret 's' in namespace 'default', which does not exist"
    assert waiting(world, IMAGE, "a") == ("Pending", "SecretNotFound", message)
    assert world.board.submitted == []

    add_secret(world, username="me", password="hunter2", headers="X-Token: abc\n\nX-Other: d: e\n")
    (job,) = world.board.submitted
    assert job.origin == HttpOrigin(
        url="https://x/y.img",
        username="me",
        password=SecretStr("hunter2"),
        headers={"X-Token": SecretStr("abc"), "X-Other": SecretStr("d: e")},
    )
    assert "hunter2" not in repr(job)
    assert "hunter2" not in json.dumps(world.get(IMAGE, "a"))
    assert ImportJob.model_validate_json(job.model_dump_json()) == job, "the worker gets them"


def test_the_secret_of_a_cluster_image_is_in_the_namespace_that_it_names() -> None:
    world = World()
    world.apply(CLUSTER_IMAGE, "a", {"dataSource": http("other")})
    add_secret(world, "default", username="wrong")
    assert waiting(world, CLUSTER_IMAGE, "a")[1] == "SecretNotFound"
    add_secret(world, "other", username="me")
    (job,) = world.board.submitted
    assert isinstance(job.origin, HttpOrigin)
    assert job.origin.username == "me"


def test_a_secret_of_no_use_is_waited_for_until_it_is_mended() -> None:
    world = World()
    add_secret(world, headers="no header")
    world.apply(IMAGE, "a", {"dataSource": http()})
    message = "Secret 's' is of no use: key 'headers': line 1 of the headers is not `Name: value`; mend it"
    assert waiting(world, IMAGE, "a") == ("Pending", "SecretInvalid", message)
    world.apply(IMAGE, "b", {"dataSource": CONTAINER})
    assert waiting(world, IMAGE, "b")[2] == "Secret 's' is of no use: it has no key '.dockerconfigjson'; mend it"


def test_the_pull_secret_of_a_container_image_goes_along() -> None:
    world = World()
    world.apply(DISK, "d", {"persistentVolumeClaim": {}, "dataSource": CONTAINER})
    assert waiting(world, DISK, "d")[1] == "SecretNotFound"
    add_secret(world, _dockerconfigjson=CONFIG)
    (job,) = world.board.submitted
    assert (job.repository, job.origin) == (
        "vmd/default/d",
        ContainerOrigin(image="quay.io/a/b:1", docker_config=SecretStr(CONFIG)),
    )


def test_an_image_of_an_image_waits_until_that_is_ready() -> None:
    world = World()
    source = {"type": "VirtualMachineImage", "virtualMachineImage": {"name": "base", "namespace": "default"}}
    world.apply(CLUSTER_IMAGE, "copy", {"dataSource": source})
    message = "waits for VirtualMachineImage 'base', which does not exist"
    assert waiting(world, CLUSTER_IMAGE, "copy") == ("Pending", "ImageNotFound", message)
    base = {"dataSource": {"type": "HTTP", "http": {"url": "http://x/y.img"}}}
    uid = world.apply(IMAGE, "base", base)["metadata"]["uid"]
    message = "waits for VirtualMachineImage 'base', which is not Ready yet"
    assert waiting(world, CLUSTER_IMAGE, "copy") == ("Pending", "ImageNotReady", message)
    world.publish("vmi/default/base", uid)
    world.settle()
    job = world.board.submitted[-1]
    assert (job.repository, job.origin) == (
        "cvmi/copy",
        ImageOrigin(repository="vmi/default/base", digest="sha256:" + "a" * 64),
    )
    again = {"type": "ClusterVirtualMachineImage", "clusterVirtualMachineImage": {"name": "copy"}}
    world.publish("cvmi/copy", world.get(CLUSTER_IMAGE, "copy")["metadata"]["uid"])
    world.settle()
    world.apply(IMAGE, "third", {"dataSource": again})
    assert world.board.submitted[-1].origin == ImageOrigin(repository="cvmi/copy", digest="sha256:" + "a" * 64)
