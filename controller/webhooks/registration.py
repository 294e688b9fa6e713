"""Telling the cluster which requests it has to ask the webhooks about: a ValidatingWebhookConfiguration."""

import base64
from copy import deepcopy

from controller.api.kinds import KINDS
from controller.api.resource import GROUP, VALIDATING_WEBHOOKS, VERSION
from controller.machines.pod import pod_name
from controller.runtime.index import Object
from controller.runtime.likeness import contains
from controller.runtime.port import ClusterPort
from controller.webhooks.app import EVICT, VALIDATE

NAME = "dvcr"
TIMEOUT_S = 10


def register(cluster: ClusterPort, base_url: str, authority: bytes) -> None:
    """Have the cluster call `base_url`, whose certificate `authority` (PEM) has issued. Writes only what differs.

    Without a URL the configuration belongs to whoever installed the controller, and only the authority is filled in.
    """
    found = cluster.get(VALIDATING_WEBHOOKS, NAME)
    bundle = base64.b64encode(authority).decode()
    if base_url:
        wanted = _configuration(base_url)
    elif found is None:
        return
    else:
        wanted = deepcopy(found)
    for webhook in wanted["webhooks"]:
        webhook["clientConfig"]["caBundle"] = bundle
    if found is None:
        cluster.create(VALIDATING_WEBHOOKS, wanted)
    elif not contains(found["webhooks"], wanted["webhooks"]):
        cluster.update(VALIDATING_WEBHOOKS, {**found, "webhooks": wanted["webhooks"]})


def _configuration(base_url: str) -> Object:
    """The configuration, yet without an authority.

    An object that cannot be checked is refused; a pod whose eviction cannot be judged is evicted, since nobody could
    empty a node otherwise, and its machine is then stopped as gracefully as it allows.
    """
    common = {"admissionReviewVersions": ["v1"], "timeoutSeconds": TIMEOUT_S, "matchPolicy": "Equivalent"}
    ours = {"apiGroups": [GROUP], "apiVersions": [VERSION], "operations": ["CREATE", "UPDATE"]}
    evictions = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods/eviction"]}
    return {
        "apiVersion": VALIDATING_WEBHOOKS.api_version,
        "kind": VALIDATING_WEBHOOKS.kind,
        "metadata": {"name": NAME},
        "webhooks": [
            {
                **common,
                "name": f"validate.{GROUP}",
                "clientConfig": {"url": base_url + VALIDATE},
                "rules": [{**ours, "resources": sorted(kind.resource.plural for kind in KINDS)}],
                "failurePolicy": "Fail",
                "sideEffects": "None",
            },
            {
                **common,
                "name": f"evict.{GROUP}",
                "clientConfig": {"url": base_url + EVICT},
                "rules": [evictions],
                "failurePolicy": "Ignore",
                "sideEffects": "NoneOnDryRun",
                # Others' pods are evicted without asking here, and without waiting where nobody answers.
                "matchConditions": [{"name": "machines", "expression": f"request.name.startsWith('{pod_name('')}')"}],
            },
        ],
    }
