"""The patches of PATCH: JSON patch (RFC 6902), JSON merge patch (RFC 7396), strategic merge for built-in kinds."""

import copy
from typing import Any

import jsonpatch
import jsonpointer

from controller.api.errors import StatusError, bad_request

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

# By which field the items of a list are told apart, by the list's name; a list that is not here is replaced as a whole.
_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "ports": ("containerPort", "port"),
    "conditions": ("type",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey",),
}
_MERGED_SETS = frozenset({"finalizers"})
_DELETE_FROM_LIST = "$deleteFromPrimitiveList/"


def apply_patch(obj: dict[str, Any], patch: Any, content_type: str, *, custom: bool) -> dict[str, Any]:
    """A patched copy of `obj`. Raises StatusError: 400 for a malformed patch, 415 for a kind of patch that is not
    served, 422 for a JSON patch that does not fit."""
    if content_type == JSON_PATCH:
        return _json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise bad_request("the patch is not a JSON object")
    if content_type == MERGE_PATCH:
        merged: dict[str, Any] = _merge(obj, patch)
        return merged
    if content_type == STRATEGIC_PATCH and not custom:
        return _strategic(obj, patch)
    served = [JSON_PATCH, MERGE_PATCH, *([] if custom else [STRATEGIC_PATCH]), APPLY_PATCH]
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(served)}"
    raise StatusError(415, "UnsupportedMediaType", message)


def _json_patch(obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    if not isinstance(patch, list):
        raise bad_request("a JSON patch is a list of operations")
    try:
        result = jsonpatch.apply_patch(obj, patch)
    except jsonpatch.InvalidJsonPatch as exc:
        raise bad_request(f"malformed JSON patch: {exc}") from exc
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as exc:
        raise StatusError(
            422, "Invalid", f"the server rejected our request due to an error in our request: {exc}"
        ) from exc
    if not isinstance(result, dict):
        raise bad_request("the patched value is no object")
    return result


def _merge(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, each in patch.items():
        if each is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), each)
    return result


def _strategic(value: Any, patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: copy.deepcopy(each) for name, each in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    result = dict(value) if isinstance(value, dict) else {}
    if isinstance(retained := patch.get("$retainKeys"), list):
        result = {name: each for name, each in result.items() if name in retained}
    for name, each in patch.items():
        if name.startswith(_DELETE_FROM_LIST):
            at = name.removeprefix(_DELETE_FROM_LIST)
            result[at] = [item for item in result.get(at) or () if item not in each]
        elif name.startswith("$"):
            continue
        elif each is None:
            result.pop(name, None)
        elif isinstance(each, dict):
            result[name] = _strategic(result.get(name), each)
        elif isinstance(each, list):
            result[name] = _strategic_list(name, result.get(name) or [], each)
        else:
            result[name] = each
    for name, order in patch.items():
        if name.startswith("$setElementOrder/"):
            _reorder(name.removeprefix("$setElementOrder/"), result, order)
    return result


def _strategic_list(name: str, value: list[Any], patch: list[Any]) -> list[Any]:
    if name in _MERGED_SETS:
        return [*value, *(each for each in patch if each not in value)]
    key = list_key(name, [*patch, *value])
    if key is None or any(isinstance(each, dict) and each.get("$patch") == "replace" for each in patch):
        return [copy.deepcopy(each) for each in patch if not (isinstance(each, dict) and "$patch" in each)]
    result = list(value)
    for each in patch:
        at = next((index for index, old in enumerate(result) if old.get(key) == each.get(key)), None)
        if each.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(_strategic({}, each))
        else:
            result[at] = _strategic(result[at], each)
    return result


def list_key(name: str, items: list[Any]) -> str | None:
    """The field by which the items of a built-in kind's list are told apart; None for one that is replaced."""
    if not all(isinstance(each, dict) for each in items):
        return None
    return next((key for key in _MERGE_KEYS.get(name, ()) if any(key in each for each in items)), None)


def _reorder(name: str, result: dict[str, Any], order: list[Any]) -> None:
    items = result.get(name)
    if not items:
        return
    key = list_key(name, [each for each in [*items, *order] if isinstance(each, dict)])

    def identity(each: Any) -> Any:
        return each.get(key) if isinstance(each, dict) and key else each

    places = {str(identity(each)): index for index, each in enumerate(order)}
    result[name] = sorted(items, key=lambda each: places.get(str(identity(each)), len(places)))
