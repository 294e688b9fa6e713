"""Who may do what: RBAC's roles and bindings, as rbac.authorization.k8s.io/v1 defines them.

Left out: aggregated roles, and the check that nobody grants more than they may do themselves. Whoever may write roles
or bindings may do everything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from controller.api.errors import StatusError
from controller.local.authentication import MASTERS, User, service_account
from controller.local.store import Image, Key

GROUP = "rbac.authorization.k8s.io"
_ROLES = {"Role": f"roles.{GROUP}", "ClusterRole": f"clusterroles.{GROUP}"}
_CLUSTER_BINDINGS = f"clusterrolebindings.{GROUP}"
_BINDINGS = f"rolebindings.{GROUP}"


@dataclass(frozen=True)
class Action:
    """What a request wants to do. `resource` is `plural` or `plural/subresource`; namespace and name may be empty."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str


def is_allowed(image: Image, user: User, action: Action) -> bool:
    """Whether some rule grants the action to the user."""
    return MASTERS in user.groups or any(_grants(rule, action) for rule in rules(image, user, action.namespace))


def refusal(user: User, action: Action) -> StatusError:
    """The 403 that says what is missing, in Kubernetes' words."""
    plural = action.resource.partition("/")[0]
    qualified = f"{plural}.{action.group}" if action.group else plural
    named = f' "{action.name}"' if action.name else ""
    where = f'in the namespace "{action.namespace}"' if action.namespace else "at the cluster scope"
    message = (
        f'{qualified}{named} is forbidden: User "{user.name}" cannot {action.verb} resource "{action.resource}" '
        f'in API group "{action.group}" {where}'
    )
    details = {"name": action.name, "group": action.group, "kind": plural}
    return StatusError(403, "Forbidden", message, {key: value for key, value in details.items() if value})


def rules(image: Image, user: User, namespace: str) -> Iterator[dict[str, Any]]:
    """What is granted to the user in the namespace, and everywhere."""
    bindings = [*image.of(_CLUSTER_BINDINGS), *(image.of(_BINDINGS, namespace) if namespace else ())]
    for binding in bindings:
        place = binding.key.namespace
        if any(_is_subject(subject, user, place) for subject in binding.obj.get("subjects") or ()):
            reference = binding.obj["roleRef"]
            kind = reference["kind"]
            role = image.get(Key(_ROLES.get(kind, ""), place if kind == "Role" else "", reference["name"]))
            yield from (role.obj.get("rules") or ()) if role else ()


def _is_subject(subject: dict[str, Any], user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            return user.name == service_account(subject.get("namespace") or namespace, subject["name"]).name
    return False


def _grants(rule: dict[str, Any], action: Action) -> bool:
    names = rule.get("resourceNames") or ()
    subresource = action.resource.partition("/")[2]
    return (
        _has(rule.get("verbs"), action.verb)
        and _has(rule.get("apiGroups"), action.group)
        and _has(rule.get("resources"), action.resource, *([f"*/{subresource}"] if subresource else []))
        and (not names or action.name in names)
    )


def _has(listed: Iterable[str] | None, *wanted: str) -> bool:
    return any(each == "*" or each in wanted for each in listed or ())
