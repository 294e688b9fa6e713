"""`dvcr wait`: until an object is as wished, with its progress on the way."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from controller.api.resource import Resource
from controller.runtime.cluster import Cluster
from dvcr.errors import ResourceError

Object = dict[str, Any]

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Wish:
    """What is waited for: `condition=Ready[=True]`, `phase=Running` or `delete`."""

    kind: str
    key: str = ""
    value: str = ""

    @classmethod
    def parse(cls, text: str) -> "Wish":
        """Raises ResourceError for anything else."""
        kind, _, rest = text.partition("=")
        if text == "delete":
            return cls("delete")
        if kind == "phase" and rest:
            return cls("phase", value=rest)
        if kind == "condition" and rest:
            key, _, value = rest.partition("=")
            return cls("condition", key, value or "True")
        raise ResourceError(f"cannot wait for {text!r}; use condition=NAME, phase=NAME or delete")

    def granted(self, obj: Object | None) -> bool:
        """Whether the object (None: there is none) is as wished."""
        if self.kind == "delete":
            return obj is None
        status = (obj or {}).get("status") or {}
        if self.kind == "phase":
            return str(status.get("phase", "")).lower() == self.value.lower()
        return any(
            c["type"].lower() == self.key.lower() and c["status"].lower() == self.value.lower()
            for c in status.get("conditions") or ()
        )

    def hopeless(self, obj: Object | None) -> str:
        """Why the wish will not be granted by waiting; empty if it may."""
        status = (obj or {}).get("status") or {}
        if self.kind != "delete" and status.get("phase") == "Failed" and self.value.lower() != "failed":
            reason, message = status.get("failureReason"), status.get("failureMessage") or status.get("message")
            return ": ".join(str(part) for part in ("it failed", reason, message) if part)
        return ""


def parse_duration_s(text: str) -> float:
    """`90s`, `5m`, `1h30m` or seconds. Raises ResourceError for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ResourceError(f"{text!r} is no duration; write it like 90s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def wait_for(
    cluster: Cluster, resource: Resource, name: str, namespace: str | None, wish: Wish, timeout_s: float
) -> Object | None:
    """Block until the wish is granted; returns the object. Raises ResourceError when it will not be, or in time."""
    changed = threading.Event()
    deadline = time.monotonic() + timeout_s
    follower = cluster.inform(resource, lambda _, __: changed.set(), f"metadata.name={name}")
    what = f"{resource.kind.lower()}/{name}"
    try:
        with _Bar(what) as show:
            while not follower.wait_synced(0.2):
                if time.monotonic() >= deadline:
                    raise ResourceError(f"{what}: the API did not answer within {timeout_s:g} s", reason="Timeout")
            while True:
                changed.clear()
                obj = follower.get(name, namespace)
                show(obj)
                if wish.granted(obj):
                    return obj
                if hopeless := wish.hopeless(obj):
                    raise ResourceError(f"{what}: {hopeless}", reason="Failed")
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not changed.wait(left_s):
                    raise ResourceError(f"{what}: not within {timeout_s:g} s; it {_state(obj)}", reason="Timeout")
    finally:
        follower.stop()


def _state(obj: Object | None) -> str:
    """Where the object stands, and what it says it waits for."""
    if obj is None:
        return "does not exist"
    status = obj.get("status") or {}
    waits = [c["message"] for c in status.get("conditions") or () if c["status"] == "False" and c.get("message")]
    return f"is in {status.get('phase') or 'no phase'}" + (f": {waits[0]}" if waits else "")


class _Bar:
    """The progress of one object on standard error, if that is a terminal."""

    def __init__(self, what: str) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
        )  # fmt: skip
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._what = what

    def __enter__(self) -> Callable[[Object | None], None]:
        self._progress.start()
        self._task = self._progress.add_task(self._what, total=None, detail="")
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self, obj: Object | None) -> None:
        status = (obj or {}).get("status") or {}
        percent = str(status.get("progress", "")).removesuffix("%")
        speed = (status.get("downloadSpeed") or {}).get("current", "")
        detail = " ".join(part for part in (str(status.get("phase", "")), str(speed)) if part)
        known = re.fullmatch(r"\d+(\.\d+)?", percent) is not None
        self._progress.update(
            self._task, completed=float(percent) if known else 0, total=100 if known else None, detail=detail
        )
