"""The password file."""

import os
import time
from pathlib import Path

import bcrypt
import pytest

from dvcr.access.errors import CredentialsError
from dvcr.access.htpasswd import Htpasswd, entry
from dvcr.errors import ConfigError


def line(user: str, password: str, prefix: bytes = b"2b", cost: int = 4) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost, prefix=b'2b')).decode()}".replace(
        "$2b$", f"${prefix.decode()}$"
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"# users\n\n{line('alice', 'secret')}\n{line('bob', 'pässword', b'2y')}\n")
    return path


def rewrite(file: Path, text: str) -> None:
    incomplete = file.with_suffix(".new")
    incomplete.write_text(text)
    incomplete.rename(file)


def test_passwords(file: Path) -> None:
    users = Htpasswd(file)
    assert users.check("alice", "secret")
    assert users.check("bob", "pässword")
    assert not users.check("alice", "Secret")
    assert not users.check("bob", "secret")
    assert not users.check("carol", "secret")
    assert not users.check("", "")
    assert not users.check("alice", "")
    assert not users.check("alice", "secret\0")
    assert not users.check("alice", "s" * 73)


def test_a_user_that_is_not_there_takes_as_long(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(line("alice", "secret", cost=10))
    users = Htpasswd(file)

    def cpu_s(user: str) -> float:
        begin = time.thread_time()
        users.check(user, "guess")
        return time.thread_time() - begin

    known, unknown = (min(cpu_s(user) for _ in range(3)) for user in ("alice", "mallory"))
    assert 0.5 < unknown / known < 2


def test_the_file_is_read_again_when_it_changes(file: Path) -> None:
    users = Htpasswd(file)
    assert not users.refresh()
    rewrite(file, line("carol", "new"))
    assert users.refresh()
    assert users.check("carol", "new")
    assert not users.check("alice", "secret")


def test_a_bad_file_leaves_the_last_good_one_in_force(file: Path) -> None:
    users = Htpasswd(file)
    rewrite(file, "alice:plain")
    assert not users.refresh()
    assert users.check("alice", "secret")
    file.unlink()
    assert not users.refresh()
    assert users.check("alice", "secret")


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "alice:secret",
        "alice:$apr1$abc$def",
        "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "alice:$2y$05$tooshort",
        *(pytest.param(name + line("", "y"), id=f"{name}:HASH") for name in ("@ops", "*", "")),
    ],
)
def test_only_bcrypt_and_sane_names(tmp_path: Path, text: str) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(f"{line('first', 'x')}\n{text}\n")
    with pytest.raises(ConfigError, match=f"{os.fspath(file)}, line 2"):
        Htpasswd(file)


def test_a_line_for_the_file(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    file.write_text(entry("alice", "secret"))
    assert Htpasswd(file).check("alice", "secret")


@pytest.mark.parametrize(("user", "password"), [("a:b", "x"), ("@a", "x"), ("a", ""), ("a", "x" * 73), ("a", "x\0y")])
def test_no_line_for_what_could_not_log_in(user: str, password: str) -> None:
    with pytest.raises(CredentialsError):
        entry(user, password)
