"""A registry that wants to know who is there."""

import json
from pathlib import Path
from typing import Any

import bcrypt

from tests.support.registry import RegistryServer

PASSWORDS = {"alice": "alice's secret", "bob": "bob's secret", "root": "root's secret", "all": "everything"}

RULES: list[dict[str, Any]] = [
    {"repositories": ["team/**"], "users": ["alice"], "actions": ["pull", "push"]},
    {"repositories": ["team/**"], "users": ["@keepers"], "actions": ["pull", "push", "delete"]},
    {"repositories": ["own/bob/**"], "users": ["bob"], "actions": ["pull", "push", "delete"]},
    {"repositories": ["public/**"], "users": ["*"], "actions": ["push"]},
    {"repositories": ["public/**"], "anonymous": True, "actions": ["pull"]},
    {"repositories": ["**"], "users": ["all"], "actions": ["pull", "push", "delete"]},
]


def write_passwords(file: Path, passwords: dict[str, str] = PASSWORDS) -> None:
    """An htpasswd file, in one step as an editor would replace it."""
    incomplete = file.with_suffix(".new")
    hashes = {user: bcrypt.hashpw(text.encode(), bcrypt.gensalt(4)).decode() for user, text in passwords.items()}
    incomplete.write_text("".join(f"{user}:{value}\n" for user, value in hashes.items()))
    incomplete.rename(file)


def guarded_registry(folder: Path, **environment: str) -> RegistryServer:
    """A registry with `PASSWORDS` and `RULES`; `keepers` are root, who is the administrator too."""
    write_passwords(folder / "htpasswd")
    access = {
        "HTPASSWD_FILE": str(folder / "htpasswd"),
        "TOKEN_KEY_DIR": str(folder / "keys"),
        "RULES": json.dumps(RULES),
        "GROUPS": json.dumps({"keepers": ["root"]}),
        "ADMINS": json.dumps(["@keepers"]),
    }
    return RegistryServer(
        folder / "registry", {f"DVCR__ACCESS__{name}": value for name, value in access.items()} | environment
    )
