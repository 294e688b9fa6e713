"""The OpenSSH client's command line for a machine. Pure."""

import shlex
from collections.abc import Sequence


def ssh_command(
    target: str, namespace: str, uid: str, proxy: Sequence[str], options: Sequence[str], remote: Sequence[str]
) -> list[str]:
    """The command: `target` is `[user@]NAME`, `proxy` the command whose standard input and output is the guest's port.

    The host key is remembered under the machine's UID: a machine that is made anew under the name of another is another
    host. A new host's key is taken unasked: the way to it is the cluster's, which has authenticated itself.
    """
    user, separator, name = target.rpartition("@")
    # ssh expands what begins with a percent sign.
    proxy_command = shlex.join(proxy).replace("%", "%%")
    settings = (
        f"ProxyCommand={proxy_command}",
        f"HostKeyAlias={uid}.machine.dvcr",
        "CheckHostIP=no",
        # Of the same setting the first counts.
        *options,
        "StrictHostKeyChecking=accept-new",
    )
    flags = [part for setting in settings for part in ("-o", setting)]
    return ["ssh", *flags, "--", f"{user}{separator}{name}.{namespace}", *remote]
