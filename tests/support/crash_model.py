"""What a disk may hold after a crash: recorded system calls, replayed up to any point.

The model is a journaling file system that does no more than it must. The bytes of a file are on disk once it was
fsynced, names in a folder once the folder was; a rename is one step; names made or removed and not yet synced reach the
disk in their order, or, in the harsh variant, any of them without the others.
"""

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,close,write,lseek,ftruncate,fsync,rename,unlink,mkdir,rmdir"
# Calls that would change the disk in ways that this model does not know; their use has to be noticed.
UNKNOWN = "open,creat,pwrite64,writev,pwritev,pwritev2,fallocate,truncate,fdatasync,sync_file_range,renameat,renameat2"
UNKNOWN += ",link,linkat,symlink,symlinkat,unlinkat,mkdirat,copy_file_range,sendfile,splice,dup2,dup3,msync"

_LINE = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """One successful system call."""

    name: str
    arguments: str
    result: int

    @property
    def strings(self) -> list[bytes]:
        """Its arguments that are text or bytes."""
        return [bytes.fromhex(found.replace("\\x", "")) for found in _STRING.findall(self.arguments)]

    @property
    def fd(self) -> int:
        """The file descriptor that is its first argument."""
        return int(self.arguments.partition(",")[0])


def record(command: list[str], folder: Path) -> list[Call]:
    """Run a program under strace and give its calls in order."""
    trace = folder / "trace"
    strace = ["strace", "-f", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS},{UNKNOWN}", "-e", "signal=none"]
    subprocess.run([*strace, "-o", trace, *command], check=True, stdout=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    calls = [Call(found[1], found[2], int(found[3])) for line in lines if (found := _LINE.match(line))]
    assert not any("unfinished" in line for line in lines), "the story has to be told by one thread"
    return [call for call in calls if call.result >= 0]


@dataclass
class _Node:
    folder: bool
    data: bytes = b""
    synced: bytes = b""
    names: dict[str, "_Node"] = field(default_factory=dict)


_Step = tuple[tuple[_Node, str, _Node | None], ...]


class Disk:
    """The folder `root`, which exists and is empty at first, as processes see it and as the disk holds it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._top = _Node(folder=True)
        self._open: dict[int, tuple[_Node, int]] = {}
        self._pending: list[_Step] = []  # changes of names that are not on disk for sure, oldest first
        self._durable: dict[int, dict[str, _Node]] = {}

    def apply(self, call: Call) -> bytes:
        """Do what the call did; gives what it wrote to standard output."""
        if call.name == "openat":
            return self._openat(call)
        if call.name in ("rename", "unlink", "mkdir", "rmdir"):
            paths = [text.decode() for text in call.strings]
            if paths[-1].startswith(self.root):
                self._change_names(call.name, paths)
        elif call.name == "write" and call.fd == 1:
            return call.strings[0]
        elif call.fd in self._open:
            self._change_file(call)
        return b""

    def _openat(self, call: Call) -> bytes:
        path = call.strings[0].decode()
        self._open.pop(call.result, None)
        if path.startswith(self.root):
            parent, name = self._locate(path)
            if name and name not in parent.names:
                assert "O_CREAT" in call.arguments
                self._step(((parent, name, _Node(folder=False)),))
            self._open[call.result] = (parent.names[name] if name else parent), 0
        return b""

    def _change_names(self, name: str, paths: list[str]) -> None:
        parent, last = self._locate(paths[-1])
        if name == "mkdir":
            self._step(((parent, last, _Node(folder=True)),))
        elif name == "rename":
            source, old = self._locate(paths[0])
            self._step(((parent, last, source.names[old]), (source, old, None)))
        else:
            self._step(((parent, last, None),))

    def _change_file(self, call: Call) -> None:
        node, position = self._open[call.fd]
        if call.name == "close":
            del self._open[call.fd]
        elif call.name == "lseek":
            self._open[call.fd] = node, call.result
        elif call.name == "write":
            data = call.strings[0][: call.result]
            node.data = node.data[:position].ljust(position, b"\0") + data + node.data[position + len(data) :]
            self._open[call.fd] = node, position + len(data)
        elif call.name == "ftruncate":
            node.data = node.data[: int(call.arguments.split(",")[1])]
        elif call.name == "fsync" and node.folder:
            done = [step for step in self._pending if any(change[0] is node for change in step)]
            self._pending = [step for step in self._pending if step not in done]
            for step in done:
                _persist(step, self._durable)
        elif call.name == "fsync":
            node.synced = node.data
        else:
            raise AssertionError(f"this model does not know {call.name}")

    def after_crash(self, folder: Path, *, harsh: bool, seed: int) -> None:
        """Make `folder` what the disk may hold now; another seed, another possibility. Seed 0 loses all it can."""
        chance = random.Random(seed)
        names = {number: dict(entries) for number, entries in self._durable.items()}
        survivors = 0 if not seed else len(self._pending) if seed == 1 else chance.randint(0, len(self._pending))
        for number, step in enumerate(self._pending):
            if number < survivors if not harsh else chance.random() < 0.5:
                _persist(step, names)
        self._write(self._top, folder, names, chance, keep=seed == 1, lose=seed == 0)

    def after_kill(self, folder: Path) -> None:
        """Make `folder` what the next process sees if only this one died."""
        self._write(self._top, folder, None, random.Random(0), keep=True, lose=False)

    def _write(
        self,
        node: _Node,
        folder: Path,
        names: dict[int, dict[str, _Node]] | None,
        chance: random.Random,
        *,
        keep: bool,
        lose: bool,
    ) -> None:
        for name, child in (node.names if names is None else names.get(id(node), {})).items():
            path = folder / name
            if child.folder:
                path.mkdir()
                self._write(child, path, names, chance, keep=keep, lose=lose)
            elif keep or child.data == child.synced:
                path.write_bytes(child.data)
            else:
                choices = [child.synced, child.synced.ljust(len(child.data), b"\0"), child.data[: len(child.data) // 2]]
                path.write_bytes(child.synced if lose else chance.choice(choices))

    def _locate(self, path: str) -> tuple[_Node, str]:
        parts = [part for part in path[len(self.root) :].split("/") if part]
        node = self._top
        for part in parts[:-1]:
            node = node.names[part]
        return node, parts[-1] if parts else ""

    def _step(self, step: _Step) -> None:
        for parent, name, child in step:
            if child is None:
                parent.names.pop(name)
            else:
                parent.names[name] = child
        self._pending.append(step)


def _persist(step: _Step, names: dict[int, dict[str, _Node]]) -> None:
    for parent, name, child in step:
        entries = names.setdefault(id(parent), {})
        if child is None:
            entries.pop(name, None)
        else:
            entries[name] = child


def states(calls: list[Call], root: Path, work: Path) -> Iterator[tuple[Path, str, bytes]]:
    """Every possibility after every call: a folder, its description, and what standard output had said until then."""
    disk, said = Disk(root), b""
    for number, call in enumerate(calls):
        before = said
        said += disk.apply(call)
        if call.name in ("close", "lseek") or (call.name == "write" and said == before and call.fd not in disk._open):
            continue
        for name in ("killed", "lost", "kept", "torn", "torn again", "harsh"):
            folder = work / "state"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if name == "killed":
                disk.after_kill(folder)
            else:
                seed = {"lost": 0, "kept": 1}.get(name, number * 2 + 2 + (name == "torn again"))
                disk.after_crash(folder, harsh=name == "harsh", seed=seed)
            yield folder, f"call {number} ({call.name}), {name}", said
