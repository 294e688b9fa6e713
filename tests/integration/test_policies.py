"""A policy that denies changes and a webhook that does not answer, until somebody takes them away."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from controller.api.resource import DISK, GROUP, Resource
from controller.runtime.cluster import Object
from controller.runtime.errors import InvalidError
from controller.runtime.subject import FINALIZER
from tests.support.kubernetes import KubernetesProcess
from tests.support.redis import RedisServer
from tests.support.replicas import START_S, Site
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

ADMISSION = "admissionregistration.k8s.io"
POLICY = Resource(ADMISSION, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", namespaced=False)
BINDING = Resource(
    ADMISSION, "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", namespaced=False
)
WEBHOOKS = Resource(
    ADMISSION, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", namespaced=False
)
WORDS = "disks stay as they are"


@pytest.fixture
def site(redis_server: RedisServer, tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "cluster"
    root.mkdir()
    server = KubernetesProcess(root)
    with server, closing(Site(server, redis_server, tmp_path)) as running, running.fleet:
        yield running


def deny_changes(site: Site) -> None:
    """Have no disk changed but for its status, once the API server knows."""
    rule = {"apiGroups": [GROUP], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": [DISK.plural]}
    spec = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": WORDS}],
    }
    site.cluster.create(POLICY, {"metadata": {"name": "guard"}, "spec": spec})
    binding = {"policyName": "guard", "validationActions": ["Deny"]}
    site.cluster.create(BINDING, {"metadata": {"name": "guard"}, "spec": binding})

    def is_denied() -> bool:
        try:
            site.cluster.patch(DISK, "a", {"metadata": {"annotations": {"tried": str(time.monotonic())}}}, "default")
        except InvalidError:
            return True
        return False

    eventually(is_denied, "the policy is heeded", 60)


def ask_nobody(site: Site) -> None:
    """A webhook for claims at a port where nobody listens."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["persistentvolumeclaims"]}
    webhook = {
        "name": "away.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
    }
    site.cluster.create(WEBHOOKS, {"metadata": {"name": "away"}, "webhooks": [webhook]})


def told(site: Site, reason: str) -> str:
    """What the disk says for that reason; nothing before it does."""
    disk: Object = site.cluster.get(DISK, "a", "default") or {}
    conditions = (disk.get("status") or {}).get("conditions") or ()
    return next(
        (str(each["message"]) for each in conditions if (each["type"], each["reason"]) == ("Ready", reason)), ""
    )


def test_what_policies_and_webhooks_are_in_the_way_of_is_told_and_done_once_they_are_gone(site: Site) -> None:
    site.apply("a")
    ask_nobody(site)
    deny_changes(site)
    replica = site.start(None, "--no-leader-elect")
    eventually(lambda: replica.leads, "the controller works", START_S)
    eventually(lambda: told(site, "Invalid"), "the disk says why it has no finalizer", 60)
    message = told(site, "Invalid")
    assert message.startswith(f"the finalizer {FINALIZER} cannot be put on: ")
    assert "ValidatingAdmissionPolicy 'guard'" in message
    assert WORDS in message
    site.cluster.delete(BINDING, "guard")
    eventually(lambda: told(site, "InternalError"), "the disk says why it has no claim", 90)
    assert 'failed calling webhook "away.example.com"' in told(site, "InternalError")
    site.cluster.delete(WEBHOOKS, "away")
    site.all_ready_and_once()
