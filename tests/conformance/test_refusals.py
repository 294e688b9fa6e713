"""What API servers refuse of the kinds: the embedded one by its own rules, a real one by the CRDs, without webhooks."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from controller.api.kinds import crds
from controller.api.resource import CLUSTER_IMAGE, GROUP, MACHINE, Resource
from tests.support.cluster import ClusterProcess
from tests.support.kubernetes import KubernetesProcess
from tests.support.refused import ACCEPTED, HTTP, REFUSED, Object, Refused, device, machine

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def session(server: ClusterProcess) -> requests.Session:
    return server.session()


def answer_to(server: ClusterProcess, session: requests.Session, refused: Refused) -> Object:
    """The Status that says why; of what there was before nothing stays."""
    url = server.url + refused.resource.path("default")
    one = f"{url}/{refused.name}"
    if refused.old is None:
        answer = session.post(url, json=refused.object, timeout=30)
    else:
        made = session.post(url, json=refused.old, timeout=30)
        assert made.status_code == 201, made.text
        if refused.status is not None:
            made = session.put(f"{one}/status", json={**made.json(), "status": refused.status}, timeout=30)
            assert made.ok, made.text
        answer = session.put(one, json={**made.json(), "spec": refused.spec}, timeout=30)
        assert session.delete(one, timeout=30).ok
    status: Object = answer.json()
    assert (answer.status_code, status["reason"]) == (422, "Invalid"), status
    return status


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_the_user_is_told_the_field(server: ClusterProcess, session: requests.Session, refused: Refused) -> None:
    status = answer_to(server, session, refused)

    field = refused.cel_field if refused.cel_field and isinstance(server, KubernetesProcess) else refused.field
    assert field in [cause["field"] for cause in status["details"]["causes"]]
    assert f"{field}: " in status["message"]
    assert status["message"].startswith(f'{refused.resource.kind}.{GROUP} "{refused.name}" is invalid: ')


@pytest.mark.parametrize(("resource", "spec"), ACCEPTED)
def test_what_is_unusual_but_right_is_accepted(
    server: ClusterProcess, session: requests.Session, resource: Resource, spec: Object
) -> None:
    url = f"{server.url}{resource.path('default')}?dryRun=All"
    answer = session.post(url, json=Refused(resource, "", "", spec, name="right").object, timeout=30)
    assert answer.status_code == 201, answer.text


@pytest.mark.kubernetes
@pytest.mark.parametrize("server", ["kubernetes"], indirect=True)
def test_every_rule_in_cel_refuses_something(server: ClusterProcess, session: requests.Session) -> None:
    said = [
        cause["message"] for refused in REFUSED for cause in answer_to(server, session, refused)["details"]["causes"]
    ]

    assert {message for message in messages(crds()) if not any(each.endswith(message) for each in said)} == set()


def messages(node: Any) -> Iterator[str]:
    """What the rules of the definitions tell."""
    if isinstance(node, list):
        for each in node:
            yield from messages(each)
    elif isinstance(node, dict):
        for key, each in node.items():
            if key == "x-kubernetes-validations":
                yield from (rule["message"] for rule in each)
            else:
                yield from messages(each)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_an_image_that_cannot_be_booted_from_is_refused(server: ClusterProcess, session: requests.Session) -> None:
    images = server.url + CLUSTER_IMAGE.path()
    image = {"apiVersion": CLUSTER_IMAGE.api_version, "kind": CLUSTER_IMAGE.kind, "metadata": {"name": "debian"}}
    made = session.post(images, json={**image, "spec": {"dataSource": HTTP}}, timeout=30).json()
    ready = {**made, "status": {"phase": "Ready", "cdrom": False}}
    assert session.put(f"{images}/debian/status", json=ready, timeout=30).ok
    first = machine(device("debian", "ClusterVirtualMachineImage"), device("root"))

    status = answer_to(server, session, Refused(MACHINE, "an image first", "spec.blockDevices[0]", first))

    assert [cause["field"] for cause in status["details"]["causes"]] == ["spec.blockDevices[0]"]
    assert "spec.blockDevices[0]: " in status["message"]
