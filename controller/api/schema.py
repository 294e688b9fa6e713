"""From a pydantic model to the structural schema of a CustomResourceDefinition."""

from typing import Any

from pydantic import BaseModel

_KEPT = (
    "description",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "format",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
)
_RULES = "x-kubernetes-validations"


def structural_schema(model: type[BaseModel], *, has_rules: bool = True) -> dict[str, Any]:
    """OpenAPI v3 without references, `null` and what Kubernetes does not allow in a structural schema."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}), (*_KEPT, _RULES) if has_rules else _KEPT)


def _structural(schema: dict[str, Any], definitions: dict[str, Any], kept: tuple[str, ...]) -> dict[str, Any]:
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**referred, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "anyOf" in schema:
        # Optional fields only: absent is how Kubernetes says null.
        (option,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        schema = {**option, **{key: value for key, value in schema.items() if key != "anyOf"}}
        return _structural(schema, definitions, kept)
    out = {key: schema[key] for key in kept if key in schema}
    if schema.get("default") is not None and schema["default"] != []:
        out["default"] = schema["default"]
    if "const" in schema:
        out["enum"] = [schema["const"]]
    if out.get("x-kubernetes-int-or-string"):
        return out | {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    if "type" in schema:
        out["type"] = schema["type"]
    else:
        out["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" in schema:
        out["properties"] = {name: _structural(part, definitions, kept) for name, part in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(schema["additionalProperties"], definitions, kept)
    if "items" in schema:
        out["items"] = _structural(schema["items"], definitions, kept)
    return out
