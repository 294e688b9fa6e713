"""The base of every API type: snake_case here, camelCase on the wire."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its path (`spec.blockDevices[1].virtualMachineDisk.name`), and what is wrong with it."""

    field: str
    message: str


class SchemaRule(Protocol):
    """A rule that goes into the schema, in CEL."""

    def validations(self) -> list[dict[str, Any]]:
        """As `x-kubernetes-validations`."""
        ...


class ModelRule(SchemaRule, Protocol):
    """A rule of a part of a resource."""

    def broken(self, value: Any, path: str) -> Iterator[FieldError]:
        """What of the part at `path` breaks the rule."""
        ...


class ChangeRule(SchemaRule, Protocol):
    """A rule of how a part of a resource may change."""

    def broken(self, value: dict[str, Any], before: dict[str, Any], path: str) -> Iterator[FieldError]:
        """What of the change of the part at `path` breaks the rule."""
        ...


class ApiModel(BaseModel):
    """A part of a resource. Fields that this version does not know are ignored: the schema already pruned them.

    Reading judges types, enums and bounds only: what was once admitted can be read. `rules.violations` judges the rest.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", use_attribute_docstrings=True
    )
    rules: ClassVar[tuple[ModelRule, ...]] = ()
    changes: ClassVar[tuple[ChangeRule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        said = [validation for rule in (*cls.changes, *cls.rules) for validation in rule.validations()]
        if said:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = said
        return schema

    @classmethod
    def read(cls, value: Any) -> Self:
        """From the wire; an absent part is an empty one."""
        return cls.model_validate(value or {})

    def write(self) -> dict[str, Any]:
        """For the wire, without what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Condition(ApiModel):
    """As in Kubernetes' metav1.Condition."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str


Preserved = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


def field_errors(exc: ValidationError, prefix: str) -> list[FieldError]:
    """The errors of a model that could not be read, with paths as Kubernetes writes them."""
    return [
        FieldError(field_path(prefix, *error["loc"]), error["msg"])
        for error in exc.errors(include_input=False, include_url=False)
    ]


def field_path(prefix: str, *parts: str | int) -> str:
    """`spec`, "blockDevices", 1, "name" → `spec.blockDevices[1].name`."""
    return prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
