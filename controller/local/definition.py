"""What the API serves: one `Definition` for each kind and version, built in or from a stored CRD."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from controller.api.errors import ObjectName
from controller.local.store import Image, Stored

CRD_RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
OPEN_SCHEMA: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_AGE_COLUMN: dict[str, Any] = {"name": "Age", "jsonPath": ".metadata.creationTimestamp", "type": "date"}


@dataclass(frozen=True, eq=False)
class Column:
    """A printer column. `path` is a JSONPath, or what makes the cell of an object; `priority` above 0 shows with
    `-o wide` only."""

    name: str
    path: str | Callable[[dict[str, Any]], Any]
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, eq=False)
class Definition:
    """A kind in one served version."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    has_status: bool = False
    schema: dict[str, Any] = field(default_factory=lambda: OPEN_SCHEMA)
    columns: tuple[Column, ...] = ()
    shown_name: str | Callable[[dict[str, Any]], Any] = ".metadata.name"
    """As a column's path: what tables have in their first column, Name. Empty: they do not begin with it."""
    selectable_fields: tuple[str, ...] = ()
    singular: str = ""
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The key of its objects in the store, the same for every version."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def named(self, name: str = "") -> ObjectName:
        return ObjectName(self.group, self.plural, self.kind, name)


def definitions(image: Image) -> list[Definition]:
    """Everything that is served at this moment, built-in kinds first."""
    from controller.local.builtin import BUILT_IN  # noqa: PLC0415 - it is made of Definitions

    custom = [each for crd in image.of(CRD_RESOURCE) for each in _of_crd(crd)]
    return [*BUILT_IN, *custom]


def find(image: Image, group: str, version: str, plural: str) -> Definition | None:
    """The definition that serves this path, if there is one."""
    for each in definitions(image):
        if (each.plural, each.group, each.version) == (plural, group, version):
            return each
    return None


def find_resource(image: Image, resource: str) -> Definition | None:
    """A definition of the stored resource `plural.group`, of whichever version."""
    return next((each for each in definitions(image) if each.resource == resource), None)


@lru_cache(maxsize=512)
def _of_crd(crd: Stored) -> tuple[Definition, ...]:
    spec = crd.obj["spec"]
    names = spec["names"]
    return tuple(
        Definition(
            group=spec["group"],
            version=version["name"],
            kind=names["kind"],
            plural=names["plural"],
            namespaced=spec["scope"] == "Namespaced",
            short_names=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            has_status="status" in (version.get("subresources") or {}),
            schema=(version.get("schema") or {}).get("openAPIV3Schema") or OPEN_SCHEMA,
            columns=tuple(
                Column(
                    column["name"],
                    column["jsonPath"],
                    column["type"],
                    column.get("priority", 0),
                    column.get("description", ""),
                )
                for column in version.get("additionalPrinterColumns") or (_AGE_COLUMN,)
            ),
            selectable_fields=tuple(each["jsonPath"].lstrip(".") for each in version.get("selectableFields") or ()),
            singular=names.get("singular") or names["kind"].lower(),
            custom=True,
        )
        for version in sorted(spec["versions"], key=lambda each: not each.get("storage"))
        if version.get("served")
    )
