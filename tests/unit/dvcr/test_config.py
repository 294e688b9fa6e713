from pathlib import Path

import pytest

from dvcr.config import Settings, as_environment, load_settings
from dvcr.errors import ConfigError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVCR_CONFIG", raising=False)


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "dvcr.toml"
    file.write_text('[registry]\nport = 1234\nhost = "0.0.0.0"\n')
    monkeypatch.setenv("DVCR__REGISTRY__PORT", "4321")
    registry = load_settings(file).registry
    assert (registry.host, registry.port, registry.collect_grace_s) == ("0.0.0.0", 4321, 3600)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "dvcr.toml"
    file.write_text("[log]\nlevel = 'debug'\n")
    monkeypatch.setenv("DVCR_CONFIG", str(file))
    assert load_settings().log.level == "debug"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("DVCR__REGISTRI__PORT", "1", "registri"),
        ("DVCR__REGISTRY__PROT", "1", "registry.prot: there is no such setting$"),
        ("DVCR__REGISTRY__PORT", "many", "registry.port"),
        ("DVCR__REGISTRY__PORT", "70000", "registry.port"),
        ("DVCR__STORAGE__DRIVER", "floppy", "storage.driver"),
    ],
)
def test_a_wrong_variable_refuses_to_load_and_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=named):
        load_settings()


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml"):
        load_settings(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[registry\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(broken)


def test_secrets_never_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVCR__BROKER__URL", "redis://:hunter2@localhost/0")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_settings_survive_the_way_through_a_child_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"registry": {"port": 7}, "storage": {"filesystem": {"root": Path("/srv/x")}}}
    for name, value in as_environment(values).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.registry.port, settings.storage.filesystem.root) == (7, Path("/srv/x"))


def test_every_setting_is_explained() -> None:
    unexplained = [
        f"{section}.{name}"
        for section, field in Settings.model_fields.items()
        if field.annotation is not None
        for name, inner in field.annotation.model_fields.items()
        if not inner.description and not hasattr(inner.annotation, "model_fields")
    ]
    assert unexplained == []


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"DRIVER": "s3"}, r"storage\.s3\.bucket is empty"),
        ({"S3__BUCKET": "b"}, r"storage\.driver is not s3"),
        ({"DRIVER": "s3", "S3__BUCKET": "b", "S3__ACCESS_KEY_ID": "x"}, "secret_access_key need each other"),
        ({"S3__CA_FILE": "ca.pem", "S3__ENDPOINT_URL": "http://s3"}, r"endpoint_url is not https"),
        ({"S3__ENDPOINT_URL": "s3.example.com"}, r"storage\.s3\.endpoint_url"),
    ],
)
def test_contradicting_storage_settings_refuse_to_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"DVCR__STORAGE__{name}", value)
    with pytest.raises(ConfigError, match=named):
        load_settings()
