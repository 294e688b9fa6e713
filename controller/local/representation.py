"""How objects leave the API: in the version that was asked for, whole, as tables, or as their metadata alone."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from controller.api.errors import bad_request
from controller.local.definition import Definition
from controller.local.request import included, rendering
from controller.local.store import Key, Stored
from controller.local.table import partial_metadata, table
from controller.local.watch import WatchEvent


def answer(
    request: web.Request, definition: Definition, stored: Stored, status: int = 200, warnings: Sequence[str] = ()
) -> web.Response:
    """An object in the client's version and rendering."""
    match rendering(request):
        case "Table":
            metadata = {"resourceVersion": str(stored.version)}
            body = json.dumps(
                table(definition, [_in_version(stored, definition)], metadata, included(request))
            ).encode()
        case "PartialObjectMetadata":
            body = json.dumps(partial_metadata(stored.obj)).encode()
        case _:
            body = _body(stored, definition)
    response = web.Response(body=body, status=status, content_type="application/json")
    response.headers.extend([("Warning", f"299 - {json.dumps(warning)}") for warning in warnings])
    return response


def answer_list(
    request: web.Request, definition: Definition, found: Sequence[Stored], metadata: dict[str, Any]
) -> web.Response:
    """Objects in the client's version and rendering, as a list with this `metadata`."""
    match rendering(request):
        case "Table":
            objects = [_in_version(each, definition) for each in found]
            return web.json_response(table(definition, objects, metadata, included(request)))
        case "PartialObjectMetadata":
            return web.json_response(
                {
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": [partial_metadata(each.obj) for each in found],
                }
            )
    head = {"kind": f"{definition.kind}List", "apiVersion": definition.api_version, "metadata": metadata}
    # The objects' JSON is known: only the frame around it is made here.
    items = b",".join(_body(each, definition) for each in found)
    return web.Response(
        body=json.dumps(head).encode()[:-1] + b',"items":[' + items + b"]}", content_type="application/json"
    )


def line(event: WatchEvent, definition: Definition, render: str, include: str) -> bytes:
    """One line of a watch: an event in the client's version and rendering."""
    if event.type == "BOOKMARK":
        shape = {"Table": ("Table", "meta.k8s.io/v1"), "PartialObjectMetadata": (render, "meta.k8s.io/v1")}
        kind, api_version = shape.get(render, (definition.kind, definition.api_version))
        obj: dict[str, Any] = {"kind": kind, "apiVersion": api_version, **event.obj}
        if render == "Table":
            obj |= {"columnDefinitions": [], "rows": []}
        answer = json.dumps(obj).encode()
    elif render == "Table":
        obj = {**event.obj, "apiVersion": definition.api_version}
        metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        answer = json.dumps(table(definition, [obj], metadata, include)).encode()
    elif render:
        answer = json.dumps(partial_metadata(event.obj)).encode()
    elif event.body is None or event.obj["apiVersion"] != definition.api_version:
        answer = json.dumps({**event.obj, "apiVersion": definition.api_version}).encode()
    else:
        answer = event.body
    return b'{"type":"' + event.type.encode() + b'","object":' + answer + b"}\n"


def write_continue(version: int, last: Key) -> str:
    """The token with which a client asks for the page after `last`; `version` is that of its first page."""
    return base64.urlsafe_b64encode(json.dumps([version, last.namespace, last.name]).encode()).decode()


def read_continue(token: str) -> tuple[int, list[str]]:
    """The version and the place out of a token. Raises StatusError 400."""
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
    except ValueError as exc:
        raise bad_request("continue key is not valid") from exc
    return int(version), [namespace, name]


def _in_version(stored: Stored, definition: Definition) -> dict[str, Any]:
    """The object as the definition's version names it; versions differ in nothing else."""
    if stored.obj["apiVersion"] == definition.api_version:
        return stored.obj
    return {**stored.obj, "apiVersion": definition.api_version}


def _body(stored: Stored, definition: Definition) -> bytes:
    """The JSON of an object in the definition's version."""
    if stored.obj["apiVersion"] == definition.api_version:
        return stored.body
    return json.dumps(_in_version(stored, definition)).encode()
