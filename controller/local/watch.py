"""Watches: a cursor over the history of a resource.

A watch remembers the version up to which it has told everything, and after each commit reads what came later. There is
no queue that could overflow, and resuming is the same as going on: nothing is lost or told twice.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from controller.api.errors import StatusError, expired
from controller.local.selectors import Predicate
from controller.local.store import Change, Store, Stored

BOOKMARK_INTERVAL_S = 30.0
_BATCH_LENGTH = 256


@dataclass(frozen=True)
class WatchRequest:
    """What to watch: a resource in one namespace (empty: all) where `matches` (None: everything).

    `version` is where to go on; None asks for the present objects first.
    """

    resource: str
    namespace: str
    matches: Predicate | None
    version: int | None
    timeout_s: float
    bookmarks: bool = False
    initial_end_bookmark: bool = False


@dataclass(frozen=True)
class WatchEvent:
    """An event and its object; `body` is the object's JSON where it is known already."""

    type: str
    obj: dict[str, Any]
    body: bytes | None = None


def check_version(store: Store, resource: str, version: int) -> None:
    """Raises StatusError 410 if changes after `version` are not all known any more, or it never was."""
    if version < store.history(resource).compacted:
        raise expired(f"too old resource version: {version} ({store.history(resource).compacted})")
    if version > store.image.version:
        raise expired(f"too large resource version: {version}, current: {store.image.version}")


async def watch(store: Store, request: WatchRequest) -> AsyncIterator[list[WatchEvent]]:
    """The events, in batches, until `timeout_s` is over. Raises StatusError 410 at once or when it falls behind."""
    changed = asyncio.Event()
    store.listen(request.resource, changed)
    loop = asyncio.get_running_loop()
    end = loop.time() + request.timeout_s
    try:
        version = request.version
        if version is None:
            version = store.image.version
            yield _present(store, request)
            if request.initial_end_bookmark:
                yield [_bookmark(version, {"k8s.io/initial-events-end": "true"})]
        else:
            check_version(store, request.resource, version)
        while True:
            changed.clear()
            # The newest version is read before the changes: what a commit adds meanwhile comes in the next round.
            newest = store.image.version
            history = store.history(request.resource)
            if version < history.compacted:
                raise expired(f"too old resource version: {version} ({history.compacted})")
            changes = history.since(version)
            for start in range(0, len(changes), _BATCH_LENGTH):
                batch = [_event(each, request) for each in changes[start : start + _BATCH_LENGTH]]
                yield [event for event in batch if event is not None]
            version = max(newest, changes[-1].version if changes else 0)
            if changed.is_set():
                continue
            left_s = end - loop.time()
            try:
                async with asyncio.timeout(min(left_s, BOOKMARK_INTERVAL_S)):
                    await changed.wait()
            except TimeoutError:
                if request.bookmarks:
                    yield [_bookmark(version, None)]
                if end <= loop.time():
                    return
    finally:
        store.unlisten(request.resource, changed)


def _present(store: Store, request: WatchRequest) -> list[WatchEvent]:
    found = store.image.of(request.resource, request.namespace)
    return [WatchEvent("ADDED", each.obj, each.body) for each in found if _selects(each, request)]


def _event(change: Change, request: WatchRequest) -> WatchEvent | None:
    # An object that comes to match the selector is new to the watcher, and one that ceases to is gone for it.
    now = change.type != "DELETED" and _selects(change.after, request)
    then = change.before is not None and _selects(change.before, request)
    if now:
        return WatchEvent("MODIFIED" if then else "ADDED", change.after.obj, change.after.body)
    if then and change.type == "DELETED":
        return WatchEvent("DELETED", change.after.obj, change.after.body)
    if then and change.before is not None:
        metadata = {**change.before.obj["metadata"], "resourceVersion": str(change.version)}
        return WatchEvent("DELETED", {**change.before.obj, "metadata": metadata})
    return None


def _selects(stored: Stored, request: WatchRequest) -> bool:
    if request.namespace and stored.key.namespace != request.namespace:
        return False
    return request.matches is None or request.matches(stored.obj)


def _bookmark(version: int, annotations: dict[str, str] | None) -> WatchEvent:
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return WatchEvent("BOOKMARK", {"metadata": metadata})


def error_event(error: StatusError) -> bytes:
    """The line that ends a watch with an error."""
    return json.dumps({"type": "ERROR", "object": error.status()}).encode() + b"\n"
