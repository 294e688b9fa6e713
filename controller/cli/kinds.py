"""Finding a kind by any of the names that people use for it."""

from collections.abc import Iterable
from typing import Any

from controller.api.resource import GROUP, Resource
from dvcr.errors import ResourceError

Object = dict[str, Any]
_COMMON = {"po": "pods", "no": "nodes", "ns": "namespaces", "cm": "configmaps", "ev": "events",
           "pvc": "persistentvolumeclaims", "pv": "persistentvolumes", "sc": "storageclasses",
           "crd": "customresourcedefinitions"}  # fmt: skip


class Kinds:
    """The kinds that a server has."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        # Two groups may have a kind of the same name: ours comes first, then the core group.
        self._resources = sorted(resources, key=lambda r: (r.group != GROUP, r.group != "", r.group))

    def named(self, names: str) -> list[Resource]:
        """The kinds of a comma list of plurals, singulars, short names, `plural.group` or categories (`all`).

        Raises ResourceError for a name that the server does not know.
        """
        found: list[Resource] = []
        for name in names.lower().split(","):
            matches = [r for r in self._resources if name in r.categories]
            if not matches:
                single = next((r for r in self._resources if name in _names(r)), None)
                matches = [single] if single else []
            if not matches:
                raise ResourceError(f"the server has no resource type {name!r}", reason="UnknownKind")
            found += [match for match in matches if match not in found]
        return found

    def one(self, name: str) -> Resource:
        """The kind of one name; ResourceError if the name means several."""
        found = self.named(name)
        if len(found) != 1:
            raise ResourceError(f"{name!r} means {len(found)} resource types; name one", reason="UnknownKind")
        return found[0]

    def of(self, obj: Object) -> Resource:
        """The kind of an object. Raises ResourceError if the server does not have it."""
        for resource in self._resources:
            if (resource.api_version, resource.kind) == (obj["apiVersion"], obj["kind"]):
                return resource
        raise ResourceError(
            f"the server has no {obj['kind']} in {obj['apiVersion']}; check apiVersion and kind", reason="UnknownKind"
        )


def split_target(kind: str, name: str | None) -> tuple[str, str | None]:
    """`vm linux` and `vm/linux` mean the same."""
    if "/" in kind:
        if name:
            raise ResourceError(f"give either {kind!r} or a kind and a name, not both")
        kind, _, name = kind.partition("/")
    return kind, name


def _names(resource: Resource) -> set[str]:
    names = {resource.plural, resource.kind.lower(), f"{resource.plural}.{resource.group}", *resource.short_names}
    return names | {short for short, plural in _COMMON.items() if plural == resource.plural}
