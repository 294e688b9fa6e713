"""Admission: the kinds' own rules beyond their schema, and the completion of built-in kinds."""

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from controller.api.admission import refusals
from controller.api.errors import FieldCause, ObjectName
from controller.api.resource import Resource
from controller.api.rights import missing, rights_needed
from controller.local.authentication import User
from controller.local.authorization import Action, is_allowed
from controller.local.cascade import timestamp
from controller.local.definition import CRD_RESOURCE, Definition
from controller.local.schema import check_schema
from controller.local.store import Image, Key

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def complete(image: Image, definition: Definition, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
    """Fill in what a real API server fills in for a built-in kind, in place."""
    match definition.resource:
        case "namespaces":
            obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
            obj.setdefault("status", {}).setdefault("phase", "Active")
        case "pods" | "persistentvolumes":
            obj.setdefault("status", {}).setdefault("phase", "Pending")
        case "persistentvolumeclaims":
            obj.setdefault("status", {}).setdefault("phase", "Pending")
            if old is None and "storageClassName" not in obj["spec"] and (name := _default_class(image)):
                obj["spec"]["storageClassName"] = name
        case "secrets":
            for name, text in (obj.pop("stringData", None) or {}).items():
                if isinstance(text, str):
                    obj.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()
        case resource if resource == CRD_RESOURCE:
            _complete_crd(obj)


def check(image: Image, definition: Definition, obj: dict[str, Any], old: dict[str, Any] | None) -> list[FieldCause]:
    """What is wrong with an object that its schema cannot say."""
    if definition.custom:

        def find(resource: Resource, name: str, namespace: str | None) -> dict[str, Any] | None:
            stored = image.get(Key(f"{resource.plural}.{resource.group}", namespace or "", name))
            return None if stored is None else stored.obj

        return refusals(obj, old, find)
    match definition.resource:
        case "secrets":
            return [
                FieldCause.invalid(f"data[{name}]", text, "must be base64")
                for name, text in (obj.get("data") or {}).items()
                if not _is_base64(text)
            ]
        case "pods" if old is not None:
            return _check_pod_update(obj["spec"], old["spec"])
        case "persistentvolumeclaims" if old is not None and (old.get("status") or {}).get("phase") == "Bound":
            return _check_claim_update(obj["spec"], old["spec"])
        case resource if resource == CRD_RESOURCE:
            return list(_check_crd(obj))
    return []


def authorize(image: Image, user: User, about: ObjectName, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
    """Raises StatusError 403 where a valid object takes something from a namespace where the user may not."""
    for right in rights_needed(obj, old):
        action = Action(right.verb, right.group, right.resource, right.namespace, right.name)
        if not is_allowed(image, user, action):
            raise missing(about, user.name, right)


def _check_crd(obj: dict[str, Any]) -> Iterator[FieldCause]:
    spec, name = obj["spec"], obj["metadata"]["name"]
    wanted = f"{spec['names']['plural']}.{spec['group']}"
    if name != wanted:
        detail = f'must be spec.names.plural+"."+spec.group, that is {wanted}'
        yield FieldCause.invalid("metadata.name", name, detail)
    if sum(each["storage"] for each in spec["versions"]) != 1:
        yield FieldCause.invalid("spec.versions", spec["versions"], "must have exactly one version marked as storage")
    for index, version in enumerate(spec["versions"]):
        schema = (version.get("schema") or {}).get("openAPIV3Schema", {})
        yield from check_schema(schema, f"spec.versions[{index}].schema.openAPIV3Schema")


def _check_pod_update(spec: dict[str, Any], old: dict[str, Any]) -> list[FieldCause]:
    def fixed(pod: dict[str, Any]) -> dict[str, Any]:
        changeable = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds")
        rest = {name: each for name, each in pod.items() if name not in changeable}
        for name in ("containers", "initContainers"):
            rest[name] = [{**each, "image": ""} for each in pod.get(name) or ()]
        return rest

    if fixed(spec) == fixed(old):
        return []
    return [FieldCause.forbidden("spec", "pod updates may not change fields other than the image and tolerations")]


def _check_claim_update(spec: dict[str, Any], old: dict[str, Any]) -> list[FieldCause]:
    if {**spec, "resources": None} == {**old, "resources": None}:
        return []
    return [FieldCause.forbidden("spec", "spec is immutable after creation except resources.requests for bound claims")]


def _default_class(image: Image) -> str:
    for each in image.of("storageclasses.storage.k8s.io"):
        if (each.obj["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true":
            return each.key.name
    return ""


def _complete_crd(obj: dict[str, Any]) -> None:
    spec, names = obj["spec"], obj["spec"]["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    status = obj.setdefault("status", {})
    status["acceptedNames"] = names
    status["storedVersions"] = [each["name"] for each in spec["versions"] if each["storage"]]
    if not status.get("conditions"):
        status["conditions"] = [
            {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": timestamp()}
            for type_, reason, message in (
                ("NamesAccepted", "NoConflicts", "no conflicts found"),
                ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            )
        ]


def _is_base64(text: Any) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return False
    return True
