"""The settings of a launcher."""

from pathlib import Path

from dvcr.config import Settings, load_settings


def launcher_settings(root: Path) -> Settings:
    """As `load_settings`, but with the file of credentials below `root`, the folder that stands for the pod's `/`."""
    settings = load_settings()
    file = settings.client.credentials_file
    if file is None:
        return settings
    client = settings.client.model_copy(update={"credentials_file": root / str(file).lstrip("/")})
    return settings.model_copy(update={"client": client})
