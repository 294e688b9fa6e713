"""The command line and the environment of a container's process."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dvcr.config import as_environment
from dvcr.errors import ResourceError

Object = dict[str, Any]
Lookup = Callable[[str, str], Mapping[str, bytes] | None]
"""The entries of a Secret or ConfigMap, by kind and name; None if it does not exist."""

_INHERITED = ("DVCR__LAUNCHER__", "DVCR__LOG__")
_REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")


def environment(
    pod: Object, container: Object, *, root: Path, pod_ip: str, lookup: Lookup, cache_dir: Path | None = None
) -> dict[str, str]:
    """What the process finds in its environment; with `cache_dir`, launchers keep their cache there, and nowhere else.

    Raises ResourceError for a reference to something that is not there.
    """
    # What the pod leaves open about its launcher, and how it logs, is the node's to say; nothing else is handed down.
    env = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "HOME": str(root),
        "TMPDIR": str(root / "tmp"),
        "HOSTNAME": pod["metadata"]["name"],
        "DVCR_POD_ROOT": str(root),
        "DVCR_TERMINATION_LOG": str(termination_log(container, root)),
    }
    for source in container.get("envFrom") or ():
        for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if key in source:
                entries = _entries(source[key], kind, lookup)
                env |= {source.get("prefix", "") + name: value.decode() for name, value in entries.items()}
    for entry in container.get("env") or ():
        if "valueFrom" in entry:
            value = _value_from(entry, pod, pod_ip, lookup)
            if value is not None:
                env[entry["name"]] = value
        else:
            env[entry["name"]] = expand(entry.get("value") or "", env)
    if cache_dir is not None:
        # The mount that the pod names is a folder of its own here, and its path one of the host's.
        env |= as_environment({"launcher": {"cache_dir": cache_dir}})
    return env


def command_line(container: Object, env: Mapping[str, str]) -> list[str]:
    """The process's arguments, with $(NAME) replaced. ResourceError without a command: there is no image to ask."""
    if not container.get("command"):
        raise ResourceError(
            f"container {container['name']!r} has no command; this node runs processes, not images, so name one",
            field="spec.containers.command",
            reason="CreateContainerConfigError",
        )
    return [expand(part, env) for part in [*container["command"], *(container.get("args") or ())]]


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value and $$ by $; a name that is not known stays as it is."""
    return _REFERENCE.sub(lambda m: env.get(m[1], m[0]) if m[1] else "$", text)


def termination_log(container: Object, root: Path) -> Path:
    """Where the process leaves its last word."""
    return root / str(container.get("terminationMessagePath") or "/dev/termination-log").lstrip("/")


def field_value(pod: Object, path: str, pod_ip: str) -> str:
    """A field of the pod, as `fieldRef` names it. ResourceError for one that is not supported."""
    metadata = pod["metadata"]
    match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
    if match:
        return str((metadata.get(match[1]) or {}).get(match[2], ""))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", ""),
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
        "status.hostIP": "127.0.0.1",
    }
    if path not in values:
        message = f"fieldRef {path!r} is not supported; use one of {', '.join(values)}"
        raise ResourceError(message, field="spec.containers.env", reason="CreateContainerConfigError")
    return str(values[path])


def _value_from(entry: Object, pod: Object, pod_ip: str, lookup: Lookup) -> str | None:
    source = entry["valueFrom"]
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"], pod_ip)
    for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if key in source:
            reference = source[key]
            entries = _entries(reference, kind, lookup)
            if reference["key"] in entries:
                return entries[reference["key"]].decode()
            if reference.get("optional"):
                return None
            raise _absent(f"{kind.lower()} {reference['name']!r} has no key {reference['key']!r}")
    message = f"env {entry['name']!r}: valueFrom supports fieldRef, secretKeyRef and configMapKeyRef"
    raise ResourceError(message, field="spec.containers.env", reason="CreateContainerConfigError")


def _entries(reference: Object, kind: str, lookup: Lookup) -> Mapping[str, bytes]:
    entries = lookup(kind, reference["name"])
    if entries is None and not reference.get("optional"):
        raise _absent(f"{kind.lower()} {reference['name']!r} not found")
    return entries or {}


def _absent(message: str) -> ResourceError:
    return ResourceError(message, reason="CreateContainerConfigError", retryable=True)
