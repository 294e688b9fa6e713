"""From a pydantic model to the structural schema of a CustomResourceDefinition."""

from typing import Any

from pydantic import BaseModel

_KEPT = (
    "description",
    "enum",
    "minimum",
    "maximum",
    "format",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
)


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI v3 without references, `null` and what Kubernetes does not allow in a structural schema."""
    schema = model.model_json_schema(by_alias=True)
    return _structural(schema, schema.get("$defs", {}))


def _structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        referred = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**referred, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "anyOf" in schema:
        # Optional fields only: absent is how Kubernetes says null.
        (option,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        schema = {**option, **{key: value for key, value in schema.items() if key != "anyOf"}}
        return _structural(schema, definitions)
    out = {key: schema[key] for key in _KEPT if key in schema}
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
        out["properties"] = {name: _structural(part, definitions) for name, part in schema["properties"].items()}
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    if "items" in schema:
        out["items"] = _structural(schema["items"], definitions)
    return out
