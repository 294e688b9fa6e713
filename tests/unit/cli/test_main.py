"""What the command says by itself, without a sub-command."""

from importlib.metadata import version

from typer.testing import CliRunner

from dvcr.cli.main import app


def test_it_tells_its_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"dvcr {version('dvcr')}\n")
