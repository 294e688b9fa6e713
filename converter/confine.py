"""Confine this process, then become another program. Run as a script by `converter.qemu_img`, never imported.

    python -I -S confine.py '{"parent_pid": 1, ...}' PROGRAM ARGUMENT...

Kept to the standard library, and to ctypes for what it lacks: threads of the caller make a `preexec_fn` unsafe.
Without a program it prints the layers that this machine allows, as a JSON list.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SYS_LANDLOCK_CREATE_RULESET, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_READ = 1 | 4 | 8  # execute, read file, read directory
LANDLOCK_ON_FILES = 1 | 2 | 4 | 1 << 14 | 1 << 15  # rights that a rule about one file may name
NOBODY = 65534
CPU_GRACE_S = 5

# System calls that a converter of images has no business with, by machine, in three groups.
# Network: socket, connect, bind, listen, accept, accept4.
# Others' processes, whose user it may share: ptrace, process_vm_readv/writev, kill, tkill, tgkill, rt_sigqueueinfo,
# rt_tgsigqueueinfo, pidfd_send_signal, pidfd_open, pidfd_getfd.
# Corners of the kernel: mount, unshare, setns, bpf, io_uring_setup, add_key, request_key, keyctl, perf_event_open,
# userfaultfd, open_by_handle_at.
_DENIED = {
    "x86_64": (
        0xC000003E,
        (
            *(41, 42, 49, 50, 43, 288),
            *(101, 310, 311, 62, 200, 234, 129, 297, 424, 434, 438),
            *(165, 272, 308, 321, 425, 248, 249, 250, 298, 323, 304),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(198, 203, 200, 201, 202, 242),
            *(117, 270, 271, 129, 130, 131, 138, 240, 424, 434, 438),
            *(40, 97, 268, 280, 425, 217, 218, 219, 241, 282, 265),
        ),
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def die_with_parent(parent_pid: int) -> None:
    _check(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone")


def limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # Over its soft limit on CPU time a process gets SIGXCPU, which tells why; over the hard one SIGKILL.
        soft = max(value - CPU_GRACE_S, 1) if name == "CPU" else value
        resource.setrlimit(number, (soft, value))


def namespaces() -> None:
    """No network device, no shared memory of others; as an ordinary user by way of a user namespace."""
    flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS
    if os.geteuid() != 0:
        flags |= CLONE_NEWUSER
    _check(_libc.unshare(flags))


def landlock(readable: list[str], writable: list[str]) -> None:
    """No file but those beneath the given paths."""
    abi = _check(_libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, 1))
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = (ctypes.c_uint64 * 2)(rights, 3)  # files; TCP bind and connect
    size = 16 if abi >= 4 else 8
    ruleset = _check(_libc.syscall(SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0))
    for path, allowed in [*((p, LANDLOCK_READ) for p in readable), *((p, rights) for p in writable)]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):  # noqa: PTH112  # pathlib would double the time that this script takes to start
            allowed &= LANDLOCK_ON_FILES
        rule = (allowed & rights).to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        _check(_libc.syscall(SYS_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0))
        os.close(fd)
    _check(_libc.syscall(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def seccomp() -> None:
    """No system call of `_DENIED`, and none of another architecture: EPERM."""
    architecture, denied = _DENIED[platform.machine()]
    refuse, allow = 0x00050000 | 1, 0x7FFF0000

    def instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return (
            code.to_bytes(2, sys.byteorder)
            + bytes((if_true, if_false))
            + (value & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
        )

    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    program = [instruction(load, 0, 0, 4), instruction(equal, 0, len(denied) + 3, architecture)]
    program.append(instruction(load, 0, 0, 0))
    # The upper numbers are x32 on x86_64: the same calls by other names.
    program.append(instruction(at_least, len(denied) + 1, 0, 0x40000000))
    program += [instruction(equal, len(denied) - i, 0, number) for i, number in enumerate(denied)]
    program += [instruction(ret, 0, 0, allow), instruction(ret, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    _check(
        _libc.prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(program), ctypes.addressof(code))), 0, 0
        )
    )


def unprivileged() -> None:
    """The user nobody, with no group and no capability."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def main(arguments: list[str]) -> None:
    config: dict[str, Any] = json.loads(arguments[0])
    program = arguments[1:]
    limit(config["limits"])
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    layers = {
        "namespaces": namespaces,
        "landlock": lambda: landlock(config["readable"], config["writable"]),
        "unprivileged": unprivileged,
        "seccomp": seccomp,
    }
    applied = []
    for name in config["layers"]:
        try:
            layers[name]()
            applied.append(name)
        except (OSError, KeyError) as exc:
            if program:
                sys.exit(f"cannot confine ({name}): {exc}")
    if not program:
        json.dump(applied, sys.stdout)
        return
    # Last, because changing the user clears it.
    die_with_parent(config["parent_pid"])
    os.execve(program[0], program, config["environment"])  # noqa: S606  # this is what the script is for


if __name__ == "__main__":
    main(sys.argv[1:])
