"""The processes of a node's pods, as the system has them."""

from pathlib import Path

from controller.local.node.process import RUN_ID_VARIABLE


def pod_processes(data_dir: Path) -> list[int]:
    """Whatever still runs for a pod of the node with this folder."""
    mark = f"{RUN_ID_VARIABLE}={data_dir.resolve()}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found
