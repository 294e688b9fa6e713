"""What `dvcr crds` prints."""

import typer
import yaml
from typer.testing import CliRunner

from controller.api.kinds import crds
from controller.resources import register


def test_it_prints_the_definition_of_every_kind_as_yaml() -> None:
    app = typer.Typer()
    register(app)

    result = CliRunner().invoke(app, ["crds"])

    assert result.exit_code == 0
    assert list(yaml.safe_load_all(result.stdout)) == crds()
    assert len(crds()) == 9
