"""What `dvcr vm` makes of its arguments."""

from pathlib import Path

import pytest

from controller.consoles.forwarding import Mapping
from controller.consoles.ssh import ssh_command
from controller.consoles.viewer import viewer_command
from dvcr.errors import ResourceError


@pytest.mark.parametrize(
    ("text", "mapping"),
    [("8080:80", Mapping(8080, 80)), ("22", Mapping(22, 22)), (":80", Mapping(0, 80)), ("1:65535", Mapping(1, 65535))],
)
def test_ports(text: str, mapping: Mapping) -> None:
    assert Mapping.parse(text) == mapping


@pytest.mark.parametrize("text", ["", ":", "80:", "http:80", "0", "80:0", "70000:80", "80:70000", "1:2:3", "-1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ResourceError, match=r"write LOCAL:REMOTE"):
        Mapping.parse(text)


def test_ssh_goes_through_the_cluster_and_knows_the_machine_by_its_uid() -> None:
    proxy = ["/opt/dvcr", "vm", "port-forward", "--stdio", "my vm%h", "22"]

    assert ssh_command("debian@web", "prod", "u-1", proxy, ["IdentityFile=key"], ["uname", "-a"]) == [
        "ssh",
        *("-o", "ProxyCommand=/opt/dvcr vm port-forward --stdio 'my vm%%h' 22"),
        *("-o", "HostKeyAlias=u-1.machine.dvcr"),
        *("-o", "CheckHostIP=no"),
        *("-o", "IdentityFile=key"),
        *("-o", "StrictHostKeyChecking=accept-new"),
        *("--", "debian@web.prod", "uname", "-a"),
    ]


def test_without_a_user_ssh_takes_its_own() -> None:
    assert ssh_command("web", "prod", "u-1", ["dvcr"], [], [])[-1] == "web.prod"


def test_a_viewer_needs_a_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = tmp_path / "remote-viewer"
    viewer.touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert viewer_command("127.0.0.1", 5901) is None

    monkeypatch.setenv("DISPLAY", ":0")
    assert viewer_command("127.0.0.1", 5901) == [str(viewer), "vnc://127.0.0.1:5901"]
