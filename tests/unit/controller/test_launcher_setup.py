"""What of an installation's settings reaches its launchers."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from controller.launcher.settings import launcher_settings
from controller.launcher.spec import CACHE_FOLDER
from controller.machines.setup import LauncherSetup, bounded
from dvcr.config import ClientSettings, LauncherSettings, load_settings
from dvcr.errors import ConfigError

AUTHORITY = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"
REGISTRY = ClientSettings(url="http://registry.test")


def setup(launcher: LauncherSettings, node_cache_dir: Path | None = None) -> LauncherSetup:
    return LauncherSetup(("dvcr-launcher",), "dvcr", REGISTRY, launcher, node_cache_dir)


def test_all_settings_of_launchers_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LauncherSettings(
        cache_dir=Path("/of/the/controller"),
        cache_size_bytes=2**30,
        accelerator="tcg",
        network="passt",
        guest_denied_networks=("127.0.0.0/8",),
        guest_reaches_loopback=True,
        serial_log_bytes=1000,
        snapshot_bytes=2**21,
    )
    variables = {entry["name"]: entry["value"] for entry in setup(settings).environment()}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    got = load_settings()

    assert got.launcher == settings.model_copy(update={"cache_dir": Path(CACHE_FOLDER)})
    assert got.client == REGISTRY


def test_what_is_left_open_stays_open() -> None:
    assert setup(LauncherSettings()).environment() == [
        {"name": "DVCR__CLIENT__URL", "value": "http://registry.test"},
        {"name": "DVCR__LAUNCHER__CACHE_DIR", "value": CACHE_FOLDER},
    ]


def test_launchers_get_no_password_but_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ClientSettings(url="http://registry.test", username="controller", password=SecretStr("hidden"))
    shown = LauncherSetup(("dvcr-launcher",), "dvcr", registry)
    assert (shown.shows_credentials, setup(LauncherSettings()).shows_credentials) == (True, False)
    assert "hidden" not in str(shown.environment())
    for entry in shown.environment():
        monkeypatch.setenv(entry["name"], entry["value"])

    got = launcher_settings(tmp_path / "root").client

    assert (got.username, got.password.get_secret_value(), got.url) == ("", "", "http://registry.test")
    assert got.credentials_file == tmp_path / "root/etc/dvcr/registry.json"


def test_launchers_get_the_authority_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(AUTHORITY)
    registry = ClientSettings(url="https://registry.test", ca_file=file)
    for entry in LauncherSetup(("dvcr-launcher",), "dvcr", registry).environment():
        monkeypatch.setenv(entry["name"], entry["value"])

    got = load_settings().client

    assert (got.ca_pem, got.ca_file, got.url) == (AUTHORITY, None, "https://registry.test")


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    registry = ClientSettings(url="https://registry.test", ca_file=tmp_path / "none")

    with pytest.raises(ConfigError, match=r"client.ca_file: cannot read .*none"):
        LauncherSetup(("dvcr-launcher",), "dvcr", registry).environment()


def test_the_cache_is_the_nodes_or_the_pods_own() -> None:
    shared = setup(LauncherSettings(), Path("/var/cache/machines"))
    assert shared.cache_volume()["hostPath"] == {"path": "/var/cache/machines", "type": "DirectoryOrCreate"}
    own = setup(LauncherSettings(cache_size_bytes=2**30)).cache_volume()
    assert own == {"name": "cache", "emptyDir": bounded(2**30)}
    assert int(own["emptyDir"]["sizeLimit"]) > 2**30
    assert own["name"] == shared.cache_mount()["name"]
