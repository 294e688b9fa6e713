"""Create, update and delete, as functions that run in a transaction of the store."""

import copy
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from controller.api import errors
from controller.api.errors import FieldCause
from controller.local import admission, cascade, ownership, schema
from controller.local.authentication import User
from controller.local.definition import Definition
from controller.local.store import Key, Stored, Transaction

KEPT_NAMESPACES = ("default", "kube-system")
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_FROM_SERVER = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass
class Target:
    """The object that a request is about, and who asks. `warnings` collects what the client should hear."""

    definition: Definition
    namespace: str
    name: str = ""
    strict: bool = False
    user: User | None = None
    """Who asks; None for this process itself, which may do everything."""
    manager: str = "dvcr"
    """As whom the fields that are set are on record (meta/v1, `fieldManager`)."""
    warnings: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return Key(self.definition.resource, self.namespace, self.name)

    @property
    def about(self) -> errors.ObjectName:
        return self.definition.named(self.name)


def apply(
    tx: Transaction, target: Target, config: dict[str, Any], *, part: str = "", force: bool = False
) -> tuple[Stored, bool]:
    """Server-side apply (meta/v1, PatchOptions); the object, and whether it was made.

    With `part` "status" the status alone is applied, else all but the status. Raises StatusError as `create` and
    `update`, and 409 where others own what would change.
    """
    definition = target.definition
    for name in ("apiVersion", "kind"):
        if not config.get(name):
            raise errors.bad_request(f"Object '{name}' is missing: it must be set on what is applied")
    wanted = _decode(target, config)
    require_name(target, wanted["metadata"])
    if wanted["metadata"].pop("managedFields", None):
        raise errors.bad_request("metadata.managedFields must be nil")
    if part == "status":
        wanted = {key: value for key, value in wanted.items() if key in ("apiVersion", "kind", "status")}
    elif definition.has_status:
        wanted.pop("status", None)
    wanted.setdefault("metadata", {})["name"] = target.name
    owner = ownership.applied_by(target.manager, definition.api_version, part)
    owned: list[dict[str, Any]] = []

    def change(old: dict[str, Any]) -> dict[str, Any]:
        merged, entries = ownership.apply(old, wanted, _shape(target), owner, cascade.timestamp(), force=force)
        owned[:] = entries
        return merged

    if tx.image.get(target.key) is not None:
        return update(tx, target, change, part=part, owners=owned), False
    if part:
        raise errors.not_found(target.about)
    change({"apiVersion": definition.api_version, "metadata": {}})
    return create(tx, target, wanted, owners=owned), True


def create(
    tx: Transaction, target: Target, body: dict[str, Any], *, owners: list[dict[str, Any]] | None = None
) -> Stored:
    """Create an object; `owners` are its managedFields.

    Raises StatusError: 400, 403, 404 (no such namespace), 409, 422.
    """
    definition = target.definition
    obj = _decode(target, body)
    metadata = obj["metadata"]
    if metadata.pop("resourceVersion", None):
        raise errors.bad_request("resourceVersion should not be set on objects to be created")
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName'][:58]}{secrets.token_hex(3)[:5]}"
    target.name = metadata.get("name") or ""
    _check_namespace(tx, target)
    for name in (*_FROM_SERVER, "managedFields", "selfLink"):
        metadata.pop(name, None)
    if definition.has_status:
        obj.pop("status", None)
    metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": cascade.timestamp()}
    if definition.custom:
        metadata["generation"] = 1
    _finish(tx, target, obj, None)
    if owners:
        obj["metadata"]["managedFields"] = owners
    if tx.image.get(target.key) is not None:
        raise errors.already_exists(target.about)
    stored = tx.put(target.key, obj)
    cascade.collect_if_orphan(tx, stored)
    if definition.resource == cascade.EVENTS:
        cascade.expire_events(tx, datetime.now(UTC))
    return stored


def require_name(target: Target, metadata: dict[str, Any]) -> None:
    """Raises StatusError 400 where an object that is sent has another name than its URL."""
    if metadata.get("name") not in (None, target.name):
        raise errors.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({target.name})"
        )


def update(
    tx: Transaction,
    target: Target,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    part: str = "",
    owners: list[dict[str, Any]] | None = None,
) -> Stored:
    """Replace an object by what `change` makes of it; with `part` "status" the status alone, else all but the status.

    `owners`, read after `change`, are its new managedFields; without, those who owned what is changed lose it to who
    asks. Returns the object as it was left, also when that removed it (its last finalizer went). A change that changes
    nothing writes nothing. Raises StatusError: 400, 404, 409, 422.
    """
    definition = target.definition
    stored = tx.image.get(target.key)
    if stored is None:
        raise errors.not_found(target.about)
    old = stored.obj
    obj = _decode(target, change(old))
    metadata, old_metadata = obj["metadata"], old["metadata"]
    if metadata.get("resourceVersion") not in (None, "", old_metadata["resourceVersion"]):
        raise errors.conflict(target.about, _MODIFIED)
    if metadata.get("uid") not in (None, "", old_metadata["uid"]):
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {old_metadata['uid']}"
        raise errors.conflict(target.about, why)
    require_name(target, metadata)
    sent = metadata.get("managedFields")
    if part == "status":
        obj = {**copy.deepcopy(old), **({"status": obj["status"]} if "status" in obj else {})}
    else:
        _keep_from_server(obj, old)
        if definition.has_status:
            obj.pop("status", None)
            if "status" in old:
                obj["status"] = copy.deepcopy(old["status"])
        _check_finalizers(target, obj, old)
    obj["metadata"]["resourceVersion"] = old_metadata["resourceVersion"]
    _finish(tx, target, obj, old, admit=part != "status")
    if owners is None:
        owner = ownership.updated_by(target.manager, definition.api_version, part)
        owners = ownership.update(old, obj, sent, _shape(target), owner, cascade.timestamp())
    obj["metadata"].pop("managedFields", None)
    if owners:
        obj["metadata"]["managedFields"] = owners
    if obj == old:
        return stored
    if definition.custom and _specified(definition, obj) != _specified(definition, old):
        obj["metadata"]["generation"] = old_metadata.get("generation", 0) + 1
    updated = tx.put(target.key, obj)
    cascade.settle(tx, target.key)
    return updated


def delete(tx: Transaction, target: Target, options: dict[str, Any]) -> tuple[Stored, bool]:
    """Delete an object as DeleteOptions ask; returns its last state, and whether it is gone. Raises StatusError."""
    stored = tx.image.get(target.key)
    if stored is None:
        raise errors.not_found(target.about)
    if target.definition.resource == cascade.NAMESPACES and target.name in KEPT_NAMESPACES:
        raise errors.forbidden(target.about, "this namespace may not be deleted")
    wanted = options.get("preconditions") or {}
    for name, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        have = stored.obj["metadata"][name]
        if wanted.get(name) not in (None, have):
            why = f"Precondition failed: {label} in precondition: {wanted[name]}, {label} in object meta: {have}"
            raise errors.conflict(target.about, why)
    grace = options.get("gracePeriodSeconds")
    policy = options.get("propagationPolicy") or ("Orphan" if options.get("orphanDependents") else "Background")
    if policy not in ("Background", "Foreground", "Orphan"):
        about = errors.ObjectName("", "", "DeleteOptions")
        supported = ("Foreground", "Background", "Orphan")
        raise errors.invalid(about, [FieldCause.unsupported("propagationPolicy", policy, supported)])
    if grace is not None and (not isinstance(grace, int) or grace < 0):
        raise errors.bad_request("gracePeriodSeconds must be a whole number of at least 0")
    left = cascade.begin_delete(tx, stored, policy=policy, grace_period_s=grace)
    return left or stored, left is None


def bind(tx: Transaction, target: Target, binding: dict[str, Any]) -> None:
    """Give a pod to a node. Raises StatusError 409 if it already has one."""
    stored = tx.image.get(target.key)
    if stored is None:
        raise errors.not_found(target.about)
    node = (binding.get("target") or {}).get("name")
    if not node:
        raise errors.invalid(target.about, [FieldCause.required("target.name")])
    spec = stored.obj["spec"]
    if spec.get("nodeName"):
        raise errors.conflict(target.about, f"pod {target.name} is already assigned to node {spec['nodeName']!r}")
    if "deletionTimestamp" in stored.obj["metadata"]:
        raise errors.conflict(target.about, f"pod {target.name} is being deleted, cannot be assigned to a host")
    status = copy.deepcopy(stored.obj.get("status") or {})
    conditions = [each for each in status.get("conditions") or () if each["type"] != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": cascade.timestamp()}
    status["conditions"] = [*conditions, scheduled]
    metadata = dict(stored.obj["metadata"])
    tx.put(target.key, {**stored.obj, "metadata": metadata, "spec": {**spec, "nodeName": node}, "status": status})


def _shape(target: Target) -> ownership.Shape:
    return ownership.Shape(schema.of_object(target.definition.schema), target.definition.custom)


def _decode(target: Target, body: dict[str, Any]) -> dict[str, Any]:
    """A copy of `body` with its type and place checked and fields that the schema does not know removed."""
    definition = target.definition
    obj = copy.deepcopy(body)
    if not isinstance(obj.setdefault("metadata", {}), dict):
        raise errors.bad_request("metadata must be an object")
    kind, api_version = obj.setdefault("kind", definition.kind), obj.setdefault("apiVersion", definition.api_version)
    if (kind, api_version) != (definition.kind, definition.api_version) and not (
        target.name and kind == definition.kind and str(api_version).split("/")[0] == definition.group
    ):
        raise errors.bad_request(
            f"the object is a {kind} of {api_version}, "
            f"but the path expects {definition.kind} of {definition.api_version}"
        )
    obj["apiVersion"] = definition.api_version
    if obj["metadata"].get("namespace") not in (None, "", target.namespace):
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if definition.namespaced:
        obj["metadata"]["namespace"] = target.namespace
    else:
        obj["metadata"].pop("namespace", None)
    unknown = schema.prune(obj, schema.of_object(definition.schema))
    if unknown and target.strict:
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise errors.bad_request(
            f'{definition.kind} in version "{definition.version}" cannot be handled as a {definition.kind}: '
            f"strict decoding error: {listed}"
        )
    target.warnings += [f'unknown field "{path}"' for path in unknown]
    return obj


def _finish(
    tx: Transaction, target: Target, obj: dict[str, Any], old: dict[str, Any] | None, *, admit: bool = True
) -> None:
    """Defaults, validation, admission; in place."""
    whole = schema.of_object(target.definition.schema)
    schema.apply_defaults(obj, whole)
    causes = [] if old is not None else _check_name(obj["metadata"])
    causes += schema.validate(obj, whole)
    if not causes:
        admission.complete(tx.image, target.definition, obj, old)
        causes = admission.check(tx.image, target.definition, obj, old) if admit else []
    if causes:
        raise errors.invalid(target.about, causes)
    if admit and target.user is not None:
        admission.authorize(tx.image, target.user, target.about, obj, old)


def _check_name(metadata: dict[str, Any]) -> list[FieldCause]:
    name = metadata.get("name")
    if not name:
        return [FieldCause.required("metadata.name", "name or generateName is required")]
    if isinstance(name, str) and (len(name) > 253 or not _NAME.match(name)):
        detail = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
            "and must start and end with an alphanumeric character"
        )
        return [FieldCause.invalid("metadata.name", name, detail)]
    return []


def _check_namespace(tx: Transaction, target: Target) -> None:
    if not target.definition.namespaced:
        return
    namespace = tx.image.get(Key(cascade.NAMESPACES, "", target.namespace))
    if namespace is None:
        raise errors.not_found(errors.ObjectName("", "namespaces", "Namespace", target.namespace))
    if "deletionTimestamp" in namespace.obj["metadata"]:
        why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
        raise errors.forbidden(target.about, why)


def _keep_from_server(obj: dict[str, Any], old: dict[str, Any]) -> None:
    for name in (*_FROM_SERVER, "generateName"):
        obj["metadata"].pop(name, None)
        if name in old["metadata"]:
            obj["metadata"][name] = old["metadata"][name]
    obj["metadata"].pop("managedFields", None)
    obj["metadata"].pop("selfLink", None)
    obj["metadata"]["name"] = old["metadata"]["name"]


def _check_finalizers(target: Target, obj: dict[str, Any], old: dict[str, Any]) -> None:
    if "deletionTimestamp" not in old["metadata"]:
        return
    before = set(old["metadata"].get("finalizers") or ())
    added = [each for each in obj["metadata"].get("finalizers") or () if each not in before]
    if added:
        detail = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
        raise errors.invalid(target.about, [FieldCause.forbidden("metadata.finalizers", detail)])


def _specified(definition: Definition, obj: dict[str, Any]) -> dict[str, Any]:
    left_out = ("metadata", "status") if definition.has_status else ("metadata",)
    return {name: each for name, each in obj.items() if name not in left_out}
