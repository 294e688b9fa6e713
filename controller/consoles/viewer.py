"""VNC viewers that may be installed, and how each is told where to look."""

import asyncio
import os
import shutil

# In the order of preference: the name of the program, and the form of its argument.
VIEWERS = (
    ("vncviewer", "{host}::{port}"),
    ("remote-viewer", "vnc://{host}:{port}"),
    ("gvncviewer", "{host}::{port}"),
    ("vinagre", "vnc://{host}:{port}"),
    ("krdc", "vnc://{host}:{port}"),
)


def viewer_command(host: str, port: int) -> list[str] | None:
    """The command that shows the screen; None without a display, or without a viewer that we know."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    for program, argument in VIEWERS:
        if found := shutil.which(program):
            return [found, argument.format(host=host, port=port)]
    return None


async def run_viewer(command: list[str]) -> int:
    """Run the viewer to its end; its exit code."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
