"""Every refused object and change: by the admission code, and as the webhooks answer."""

import pytest

from controller.api.kinds import admit
from controller.api.resource import Resource
from controller.webhooks.review import answer
from controller.webhooks.rules import Rules
from tests.support.memory_cluster import MemoryCluster
from tests.support.refused import ACCEPTED, REFUSED, Object, Refused


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_admission_names_the_field(refused: Refused) -> None:
    assert [error.field for error in admit(refused.object, refused.old)] == [refused.field]


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_the_webhook_answers_422_with_the_field(refused: Refused) -> None:
    resource = refused.resource
    request = {
        "uid": "u-1",
        "kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "resource": {"group": resource.group, "version": resource.version, "resource": resource.plural},
        "name": refused.name,
        "object": refused.object,
        "oldObject": refused.old,
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}

    response = answer(review, Rules(MemoryCluster()).validate)["response"]

    assert response["allowed"] is False
    status = response["status"]
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert f"is invalid: {refused.field}: " in status["message"]


@pytest.mark.parametrize("refused", [each for each in REFUSED if each.old is not None], ids=str)
def test_what_was_there_before_was_fine(refused: Refused) -> None:
    assert refused.old is not None
    assert admit(refused.old, None) == []


@pytest.mark.parametrize(("resource", "spec"), ACCEPTED)
def test_what_is_unusual_but_right_is_admitted(resource: Resource, spec: Object) -> None:
    assert admit(Refused(resource, "", "", spec).object, None) == []
