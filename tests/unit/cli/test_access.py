"""`dvcr access password`, as scripts use it."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dvcr.access.errors import CredentialsError
from dvcr.access.htpasswd import Htpasswd
from dvcr.cli import access


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    access.register(app)
    return app


def test_a_line_for_the_file_and_nothing_else(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["access", "password", "alice"], input="open sesame\n")
    assert done.exit_code == 0
    file = tmp_path / "htpasswd"
    file.write_text(done.stdout)
    assert Htpasswd(file).check("alice", "open sesame")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("user", ["", "a b", "@a", "*"])
def test_a_wrong_name_is_told_before_a_password_is_read(app: typer.Typer, user: str) -> None:
    done = CliRunner().invoke(app, ["access", "password", user], input="")
    assert isinstance(done.exception, CredentialsError)
    assert "user name" in done.exception.message


def test_no_password(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["access", "password", "alice"], input="\n")
    assert isinstance(done.exception, CredentialsError)
    assert done.stdout == ""
