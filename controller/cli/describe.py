"""`dvcr describe`: an object for people, with what happened to it."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

Object = dict[str, Any]

_HIDDEN_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"


def describe(obj: Object, events: Sequence[Object]) -> str:
    """Name, labels, spec, status, conditions and events, in this order. The values of a Secret are not shown."""
    return "\n".join(_lines(obj, events))


def _lines(obj: Object, events: Sequence[Object]) -> Iterator[str]:
    metadata = obj["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != _HIDDEN_ANNOTATION}
    head = {
        "Name": metadata["name"],
        "Namespace": metadata.get("namespace"),
        "Kind": f"{obj['kind']} ({obj['apiVersion']})",
        "Labels": _pairs(metadata.get("labels")),
        "Annotations": _pairs(annotations),
        "Created": metadata.get("creationTimestamp"),
        "Deleted": metadata.get("deletionTimestamp"),
        "Finalizers": ", ".join(metadata.get("finalizers") or ()) if metadata.get("deletionTimestamp") else None,
    }
    for key, value in head.items():
        if value:
            yield f"{key + ':':<13}{value}"
    status = dict(obj.get("status") or {})
    conditions = status.pop("conditions", None) or ()
    data = {key: f"{len(value)} characters in base64" for key, value in (obj.get("data") or {}).items()}
    yield from _section("Spec", obj.get("spec"))
    yield from _section("Data", data if obj["kind"] == "Secret" else obj.get("data"))
    yield from _section("Status", status)
    if conditions:
        yield "Conditions:"
        rows = [[str(c.get(k, "")) for k in ("type", "status", "reason", "message")] for c in conditions]
        yield from _columns([["Type", "Status", "Reason", "Message"], *rows])
    yield "Events:" if events else "Events:      none"
    if events:
        newest = sorted(events, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        rows = [
            [e.get("lastTimestamp") or e.get("eventTime") or "", e.get("type", ""), e.get("reason", ""),
             f"{e.get('message', '')}{_times(e)}"] for e in newest
        ]  # fmt: skip
        yield from _columns([["Last seen", "Type", "Reason", "Message"], *rows])


def _section(title: str, value: Object | None) -> Iterator[str]:
    if value:
        yield f"{title}:"
        for line in yaml.safe_dump(value, sort_keys=False, width=120, allow_unicode=True).splitlines():
            yield f"  {line}"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def _pairs(values: dict[str, str] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (values or {}).items())


def _times(event: Object) -> str:
    count = event.get("count") or 1
    return f" (x{count})" if count > 1 else ""
