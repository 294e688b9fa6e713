"""Who owns which fields of an object: server-side apply, after structured-merge-diff. Pure.

Owners are on record in `metadata.managedFields` (meta/v1, FieldsV1). The record begins when an object is applied for
the first time, so that objects which nobody applies carry none: what it had until then is `before-first-apply`'s.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controller.api.errors import StatusError, bad_request
from controller.local.patch import list_key

Object = dict[str, Any]
Path = tuple[str, ...]
"""Steps as FieldsV1 has them: `f:<field>`, `k:<keys of a list's item>`, `v:<member of a set>`."""

FIRST = "before-first-apply"
_BY_KUBECTL = "kubectl-client-side-apply"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_APPLY, _UPDATE = "Apply", "Update"
_ITEM = object()
_FROM_SERVER = frozenset(
    ("f:metadata", f"f:{name}")
    for name in (
        "name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "managedFields", "selfLink",
        "deletionTimestamp", "deletionGracePeriodSeconds",
    )
)  # fmt: skip
_NOBODYS = frozenset({("f:apiVersion",), ("f:kind",), ("f:metadata",)})


@dataclass(frozen=True)
class Shape:
    """What a place in an object may hold, as far as ownership asks: by a schema, and for built-in kinds by its name."""

    schema: Mapping[str, Any]
    custom: bool
    name: str = ""

    def field(self, name: str) -> "Shape":
        sub = (self.schema.get("properties") or {}).get(name, self.schema.get("additionalProperties"))
        # Metadata is the same for all kinds.
        return Shape(sub if isinstance(sub, dict) else {}, self.custom and name != "metadata", name)

    def item(self) -> "Shape":
        items = self.schema.get("items")
        return replace(self, schema=items if isinstance(items, dict) else {})

    @property
    def atomic(self) -> bool:
        """Whether a map here has one owner."""
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    def steps(self, items: list[Any]) -> list[str] | None:
        """How the items of a list are told apart; None for a list that has one owner."""
        kind = self.schema.get("x-kubernetes-list-type")
        if kind == "set" or (not self.custom and self.name == "finalizers"):
            return [f"v:{_compact(each)}" for each in items]
        keys = self.schema.get("x-kubernetes-list-map-keys") if kind == "map" else None
        if keys is None and not self.custom and (key := list_key(self.name, items)):
            keys = [key]
        if not keys or not all(isinstance(each, dict) for each in items):
            return None
        return [f"k:{_compact({key: each.get(key) for key in sorted(keys)})}" for each in items]


@dataclass(frozen=True)
class Owner:
    """Who did what: one entry of managedFields, without its fields."""

    manager: str
    operation: str
    api_version: str
    part: str = ""

    def __str__(self) -> str:
        part = f' with subresource "{self.part}"' if self.part else ""
        return f'"{self.manager}"{part}' + (f" using {self.api_version}" if self.operation == _UPDATE else "")


def apply(
    live: Object, config: Object, shape: Shape, owner: Owner, now: str, *, force: bool
) -> tuple[Object, list[Object]]:
    """The object with the configuration in it, and its new managedFields.

    What the owner applied before and leaves out now is removed, unless others own it too. Raises StatusError 409 where
    it would change what others own, unless it is forced to.
    """
    before = live["metadata"].get("managedFields")
    owned = _read(before) if before else {_first(live): set(_leaves(live, shape))}
    wanted = _leaves(config, shape)
    merged = _merge(live, config, shape)
    has, gets = _leaves(live, shape), _leaves(merged, shape)
    changed = {path for path in wanted.keys() & gets.keys() if path not in has or has[path] != gets[path]}
    others = {each: fields for each, fields in owned.items() if each != owner}
    conflicts = {each: fields & changed for each, fields in others.items() if fields & changed}
    if conflicts and not force:
        raise _refusal(conflicts)
    kept = set(wanted).union(*(fields - changed for fields in others.values()))
    # An item of a list before its fields: with those it would lose what it is found by.
    for path in sorted(owned.get(owner, set()) - kept, key=len):
        _remove(merged, path, kept)
    owned = {each: fields - changed for each, fields in owned.items()} | {owner: set(wanted)}
    return merged, _write(owned, before or [], now)


def update(
    live: Object, new: Object, sent: list[Object] | None, shape: Shape, owner: Owner, now: str
) -> list[Object] | None:
    """The managedFields of an object that was changed otherwise than by applying; None where there is no record.

    `sent` are those that came with the change: clients may hand fields over, or end the record by `[{}]`.
    Raises StatusError 400 where they cannot be read.
    """
    before = live["metadata"].get("managedFields") if sent is None else [each for each in sent if each]
    if not before:
        return None
    has, gets = _leaves(live, shape), _leaves(new, shape)
    changed = {path for path, value in gets.items() if path not in has or has[path] != value}
    gone = has.keys() - gets.keys()
    owned = {each: fields - changed - gone for each, fields in _read(before).items()}
    if changed:
        owned[owner] = owned.get(owner, set()) | changed
    return _write(owned, before, now)


def applied_by(manager: str, api_version: str, part: str) -> Owner:
    return Owner(manager, _APPLY, api_version, part)


def updated_by(manager: str, api_version: str, part: str) -> Owner:
    return Owner(manager, _UPDATE, api_version, part)


def _leaves(value: Any, shape: Shape, at: Path = ()) -> dict[Path, Any]:
    """The fields that can be owned, with their values."""
    if at in _FROM_SERVER or at in {("f:apiVersion",), ("f:kind",)}:
        return {}
    found: dict[Path, Any] = {}
    if isinstance(value, dict) and value and not shape.atomic:
        for name, each in value.items():
            found |= _leaves(each, shape.field(name), (*at, f"f:{name}"))
        return found
    if isinstance(value, list) and value and (steps := shape.steps(value)) is not None:
        for step, each in zip(steps, value, strict=True):
            found[(*at, step)] = _ITEM if step.startswith("k:") else each
            if step.startswith("k:"):
                found |= _leaves(each, shape.item(), (*at, step))
        return found
    return {at: value} if at not in _NOBODYS else {}


def _merge(live: Any, config: Any, shape: Shape) -> Any:
    if isinstance(live, dict) and isinstance(config, dict) and not shape.atomic:
        merged = dict(live)
        for name, each in config.items():
            merged[name] = _merge(live.get(name), each, shape.field(name))
        return merged
    if isinstance(live, list) and isinstance(config, list):
        old, new = shape.steps(live), shape.steps(config)
        if old is not None and (new is not None or not config):
            items = dict(zip(old, live, strict=True))
            for step, each in zip(new or (), config, strict=True):
                items[step] = _merge(items.get(step), each, shape.item())
            return list(items.values())
    return copy.deepcopy(config)


def _remove(value: Any, path: Path, kept: set[Path], depth: int = 0) -> None:
    """Take the field away, and what holds nothing any more and is nobody's."""
    step = path[depth]
    at: Any
    if step.startswith("f:"):
        if not isinstance(value, dict) or step[2:] not in value:
            return
        at = step[2:]
    else:
        found = [index for index, each in enumerate(value) if _is(each, step)] if isinstance(value, list) else []
        if not found:
            return
        at = found[0]
    if depth + 1 < len(path):
        if isinstance(value[at], (dict, list)):
            value[at] = copy.copy(value[at])
            _remove(value[at], path, kept, depth + 1)
            if not value[at] and path[: depth + 1] not in kept:
                del value[at]
    elif not any(other[: len(path)] == path for other in kept):
        del value[at]


def _is(item: Any, step: str) -> bool:
    wanted = json.loads(step[2:])
    if step.startswith("v:"):
        return bool(item == wanted)
    return isinstance(item, dict) and all(item.get(key) == value for key, value in wanted.items())


def _refusal(conflicts: Mapping[Owner, set[Path]]) -> StatusError:
    told = {str(owner): sorted(map(_text, fields)) for owner, fields in conflicts.items()}
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {owner}", "field": field}
        for owner, fields in sorted(told.items())
        for field in fields
    ]
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        lines = [
            line for owner, fields in sorted(told.items())
            for line in (f"conflicts with {owner}:", *(f"- {field}" for field in fields))
        ]  # fmt: skip
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
    return StatusError(409, "Conflict", message, {"causes": causes})


def _text(path: Path) -> str:
    parts = []
    for step in path:
        if step.startswith("f:"):
            parts.append(f".{step[2:]}")
        elif step.startswith("k:"):
            keys = json.loads(step[2:])
            parts.append("[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items()) + "]")
        else:
            parts.append(f"[={step[2:]}]")
    return "".join(parts)


def _first(live: Object) -> Owner:
    # kubectl takes over what it applied itself, if it finds it under this name.
    by_kubectl = _LAST_APPLIED in (live["metadata"].get("annotations") or {})
    return updated_by(_BY_KUBECTL if by_kubectl else FIRST, live["apiVersion"], "")


def _read(entries: Iterable[Object]) -> dict[Owner, set[Path]]:
    found: dict[Owner, set[Path]] = {}
    try:
        for each in entries:
            owner = Owner(each["manager"], each["operation"], each["apiVersion"], each.get("subresource", ""))
            found[owner] = found.get(owner, set()) | set(_paths(each.get("fieldsV1") or {}))
    except (AttributeError, KeyError, TypeError) as exc:
        raise bad_request(f"metadata.managedFields cannot be read: {exc!r}") from exc
    return found


def _paths(fields: Object, at: Path = ()) -> Iterable[Path]:
    for step, each in fields.items():
        if step == ".":
            yield at
            continue
        if not each:
            yield (*at, step)
        yield from _paths(each, (*at, step))


def _write(owned: Mapping[Owner, set[Path]], before: Iterable[Object], now: str) -> list[Object]:
    """The entries; one that says the same as before keeps its time."""
    known = {
        (owner, frozenset(fields)): each.get("time", now) for each in before for owner, fields in _read([each]).items()
    }
    entries = []
    for owner, fields in owned.items():
        if not fields:
            continue
        entry = {
            "manager": owner.manager,
            "operation": owner.operation,
            "apiVersion": owner.api_version,
            "time": known.get((owner, frozenset(fields)), now),
            "fieldsType": "FieldsV1",
            "fieldsV1": _tree(fields),
        }
        entries.append(entry | ({"subresource": owner.part} if owner.part else {}))
    return entries


def _tree(fields: Iterable[Path]) -> Object:
    tree: Object = {}
    for path in sorted(fields):
        node = tree
        for step in path:
            parent, node = node, node.setdefault(step, {})
        parent[path[-1]] = node
    for path in fields:
        node = tree
        for step in path:
            node = node[step]
        if node:
            node["."] = {}
    return tree


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
