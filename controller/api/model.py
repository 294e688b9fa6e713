"""The base of every API type: snake_case here, camelCase on the wire."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


@dataclass(frozen=True)
class FieldError:
    """One wrong field: its path (`spec.blockDevices[1].virtualMachineDisk.name`), and what is wrong with it."""

    field: str
    message: str


class ApiModel(BaseModel):
    """A part of a resource. Fields that this version does not know are ignored: the schema already pruned them."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", use_attribute_docstrings=True
    )

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


# What Kubernetes calls IntOrString; the schema says so too.
QuantityString = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
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
