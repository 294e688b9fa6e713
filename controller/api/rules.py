"""What must hold of a resource beyond its types, each rule said once: in CEL for API servers, in Python for admission.

An API server reads CEL in the CustomResourceDefinition (`x-kubernetes-validations`) and refuses by it also where no
webhook answers; the embedded one and the webhooks judge in Python. The words that the user reads are the same.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from controller.api.model import ApiModel, FieldError, field_path

Object = dict[str, Any]
UNCHANGEABLE = "cannot be changed after creation"


@dataclass(frozen=True)
class Rule:
    """Of one value: a part of a resource by its type, or the annotation of a text. `field` is what is wrong of it."""

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str = ""

    def validations(self) -> list[Object]:
        return [_validation(self.cel, self.message, self.field)]

    def broken(self, value: Any, path: str) -> Iterator[FieldError]:
        if not self.holds(value):
            yield FieldError(_below(path, self.field), self.message)

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> Object:
        schema = handler(core_schema)
        return {
            **schema,
            "x-kubernetes-validations": [*schema.get("x-kubernetes-validations", ()), *self.validations()],
        }


@dataclass(frozen=True)
class Change:
    """Of a value and what it was before. `holds` is given both as JSON."""

    cel: str
    holds: Callable[[Any, Any], bool]
    message: str
    field: str = ""

    def validations(self) -> list[Object]:
        return [_validation(self.cel, self.message, self.field)]

    def broken(self, value: Object, before: Object, path: str) -> Iterator[FieldError]:
        if not self.holds(value, before):
            yield FieldError(_below(path, self.field), self.message)


@dataclass(frozen=True)
class OneBlock:
    """`type` picks one block, which must be there unless it is optional; the others must not."""

    blocks: Mapping[str, str]
    """The block by the type that it belongs to; the other types have none."""
    optional: tuple[str, ...] = ()

    def validations(self) -> list[Object]:
        rules = []
        for type_, block in self.blocks.items():
            if block not in self.optional:
                needed = f"self.type != '{type_}' || has(self.{block})"
                rules.append(_validation(needed, f"required when type is {type_}", block))
            alone = f"self.type == '{type_}' || !has(self.{block})"
            rules.append(_validation(alone, f"must not be set when type is not {type_}", block))
        return rules

    def broken(self, value: Any, path: str) -> Iterator[FieldError]:
        given, type_ = value.write().keys() & set(self.blocks.values()), value.type.value
        own = self.blocks.get(type_)
        if own is not None and own not in given and own not in self.optional:
            yield FieldError(f"{path}.{own}", f"required when {path}.type is {type_}")
        for block in sorted(given - {own}):
            yield FieldError(f"{path}.{block}", f"must not be set when {path}.type is {type_}")


def matching(pattern: str, message: str, of: str = "self") -> Rule:
    """Texts (in CEL `of`) wholly of that form. The pattern, without quotes, is the same to Python (ASCII) and RE2."""
    compiled = re.compile(pattern, re.ASCII)
    return Rule(f'{of}.matches(r"^(?:{pattern})$")', lambda text: compiled.fullmatch(text) is not None, message)


def fixed(*fields: str, hint: str = "") -> tuple[Change, ...]:
    """These fields (of all there are, if none is named) stay as they are; `hint` says what to do instead."""
    message = f"{UNCHANGEABLE}; {hint}" if hint else UNCHANGEABLE
    if not fields:
        return (Change("self == oldSelf", lambda new, old: bool(new == old), message),)
    return tuple(_fixed(field, message) for field in fields)


def name_up_to(length: int, why: str) -> Rule:
    """Of a whole object."""
    return Rule(
        f"self.metadata.name.size() <= {length}",
        lambda obj: len(obj["metadata"].get("name", "")) <= length,
        f"must be no longer than {length} characters: {why}",
        "metadata.name",
    )


def violations(value: Any, path: str, rules: tuple[Rule, ...] = ()) -> Iterator[FieldError]:
    """What is wrong with a value: by the rules of its own type and of its parts', and by these of its place."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from violations(each, field_path(path, index), rules)
    elif isinstance(value, ApiModel):
        for name, (alias, its_rules) in _parts(type(value)).items():
            yield from violations(getattr(value, name), field_path(path, alias), its_rules)
        for rule in value.rules:
            yield from rule.broken(value, path)
    elif isinstance(value, str):
        for rule in rules:
            yield from rule.broken(value, path)


@cache
def _parts(model: type[ApiModel]) -> dict[str, tuple[str, tuple[Rule, ...]]]:
    """Of each field the name on the wire, and the rules among its annotations."""
    return {
        name: (field.alias or name, tuple(_annotated((*field.metadata, field.annotation))))
        for name, field in model.model_fields.items()
    }


def _annotated(parts: tuple[Any, ...]) -> Iterator[Rule]:
    for part in parts:
        if isinstance(part, Rule):
            yield part
        yield from _annotated(get_args(part))


def _fixed(field: str, message: str) -> Change:
    *parents, last = field.split(".")

    def part(spec: Object) -> Any:
        for name in parents:
            spec = spec[name]
        return spec.get(last)

    # Comparing optionals (`self.?field`) would cost too much by API servers' estimate.
    cel = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return Change(cel, lambda new, old: bool(part(new) == part(old)), message, field)


def _validation(cel: str, message: str, field: str) -> Object:
    return {"rule": cel, "message": message} | ({"fieldPath": f".{field}"} if field else {})


def _below(path: str, field: str) -> str:
    return f"{path}.{field}" if path and field else path or field
