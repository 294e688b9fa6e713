"""What a request asks for, out of its path, query and headers."""

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from controller.api.errors import StatusError, bad_request, unknown_path
from controller.local import protobuf
from controller.local.definition import Definition
from controller.local.selectors import Predicate, matcher

_OBJECT_TYPES = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
_TABLE = re.compile(r"as=(Table|PartialObjectMetadata(?:List)?)\b")
_PATH = re.compile(r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/(?P<rest>.+)$")


@dataclass(frozen=True)
class ResourcePath:
    """The place in the API that a URL names; `name` and `subresource` may be empty, `rest` is what follows them."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str
    rest: str = ""

    @classmethod
    def parse(cls, path: str) -> "ResourcePath | None":
        """The place, or None for a path above resources. Raises StatusError 404 for one that leads up again."""
        found = _PATH.match(path.rstrip("/"))
        if not found:
            return None
        parts = found["rest"].split("/")
        # Others would read such a path differently from the way in which it is authorised here.
        if {".", ".."} & set(parts):
            raise unknown_path()
        namespace = ""
        # /namespaces/<name>/status is about the namespace itself.
        if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
            namespace, parts = parts[1], parts[2:]
        plural, name, subresource = (*parts, "", "")[:3]
        group, version, rest = found["group"] or "", found["core"] or found["version"], "/".join(parts[3:])
        return cls(group, version, namespace, plural, name, subresource, rest)


def rendering(request: web.Request) -> str:
    """How the client wants objects: "Table", "PartialObjectMetadata", or "" for themselves."""
    found = _TABLE.search(request.headers.get("Accept", "").split(",")[0])
    return found[1].removesuffix("List") if found else ""


def included(request: web.Request) -> str:
    """How much of an object its row of a table holds."""
    return request.query.get("includeObject") or "Metadata"


def selection(request: web.Request, definition: Definition) -> Predicate | None:
    """Which objects the client selects; None: all. Raises StatusError 400 for a malformed selector."""
    return matcher(definition, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))


def flag(request: web.Request, name: str) -> bool:
    return request.query.get(name, "") in ("true", "1", "True")


def number(request: web.Request, name: str) -> int | None:
    """A query parameter that is a whole number. Raises StatusError 400 if it is not."""
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise bad_request(f"invalid {name}: {text!r} is not a whole number")
    return int(text)


def field_manager(request: web.Request) -> str:
    """As whom the client sets fields: what it says, else the program that it is."""
    return request.query.get("fieldManager") or request.headers.get("User-Agent", "").split("/")[0] or "unknown"


def content_type(request: web.Request) -> str:
    return request.headers.get("Content-Type", "").split(";")[0].strip().lower()


async def body(request: web.Request) -> Any:
    """The body as JSON, YAML or protobuf; None if it is empty. Raises StatusError 400 or 415."""
    raw = await request.read()
    if not raw.strip():
        return None
    kind = content_type(request)
    try:
        if kind.endswith("yaml"):
            return yaml.safe_load(raw)
        if kind.endswith("protobuf"):
            return protobuf.decode(raw)
        return json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, yaml.YAMLError) as exc:
        raise bad_request(f"the body cannot be read: {exc}") from exc


def _refuse_constant(name: str) -> None:
    # Python reads NaN and Infinity, which no other JSON parser would take back from us.
    raise ValueError(f"{name} is not JSON")


async def object_body(request: web.Request) -> dict[str, Any]:
    """The body as an object. Raises StatusError 400 or 415."""
    if content_type(request) not in ("", *_OBJECT_TYPES):
        known = ", ".join(_OBJECT_TYPES)
        message = f"the body of the request was in an unknown format - accepted media types include: {known}"
        raise StatusError(415, "UnsupportedMediaType", message)
    found = await body(request)
    if not isinstance(found, dict):
        raise bad_request("the body must be an object")
    return found


def dry_run(request: web.Request) -> bool:
    """Whether nothing is to be kept. Raises StatusError 400 for a value that is not `All`."""
    asked = request.query.getall("dryRun", [])
    if any(each != "All" for each in asked):
        raise bad_request(f"invalid dryRun {asked}: the only value is All")
    return bool(asked)


async def delete_options(request: web.Request) -> dict[str, Any]:
    """How to delete, as the body says it, else the query. Raises StatusError 400 or 415."""
    options = await body(request) or {}
    if not isinstance(options, dict):
        raise bad_request("DeleteOptions must be an object")
    if (grace := number(request, "gracePeriodSeconds")) is not None:
        options.setdefault("gracePeriodSeconds", grace)
    if policy := request.query.get("propagationPolicy"):
        options.setdefault("propagationPolicy", policy)
    return options
