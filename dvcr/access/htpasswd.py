"""Users and their passwords in a file as `htpasswd -B` writes it."""

import re
from pathlib import Path

import bcrypt
import structlog

from dvcr.access.caller import user_name
from dvcr.access.errors import CredentialsError
from dvcr.errors import ConfigError

log = structlog.get_logger(__name__)

_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_DEFAULT_COST = 12
# bcrypt sees no more of a password.
MAX_PASSWORD_BYTES = 72


class Htpasswd:
    """The file, read again when it changes. A file that cannot be read any more leaves the last good one in force."""

    def __init__(self, file: Path) -> None:
        """Raises ConfigError naming the line that is wrong."""
        self._file = file
        self._version = self._stamp()
        self._hashes = _parse(file)

    def refresh(self) -> bool:
        """Look whether the file has changed, and read it; True if passwords may be others now."""
        version = self._stamp()
        if version == self._version:
            return False
        self._version = version
        try:
            self._hashes = _parse(self._file)
        except ConfigError as exc:
            log.error("the password file is not taken over", error=exc.message)  # noqa: TRY400  the message says it all
            return False
        log.info("password file read again", file=str(self._file), users=len(self._hashes))
        return True

    def check(self, user: str, password: str) -> bool:
        """Whether this is the user's password. Takes bcrypt's time (0.05 to 1 s), also where there is no such user."""
        raw = password.encode()
        stored = self._hashes.get(user)
        fits = 0 < len(raw) <= MAX_PASSWORD_BYTES and b"\0" not in raw
        matches = bcrypt.checkpw(raw if fits else b"-", stored or self._decoy())
        return matches and fits and stored is not None

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _decoy(self) -> bytes:
        """A hash that takes as long as the others, of no password that anybody knows."""
        cost = max((int(value[4:6]) for value in self._hashes.values()), default=_DEFAULT_COST)
        return b"$2b$%02d$" % cost + b"." * 53


def entry(user: str, password: str) -> str:
    """A line for the file; raises CredentialsError where the password cannot be kept whole."""
    if not 0 < len(password.encode()) <= MAX_PASSWORD_BYTES or "\0" in password:
        raise CredentialsError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    if ":" in user:
        raise CredentialsError("a user name in a password file has no colon")
    return f"{user_name(user)}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(_DEFAULT_COST)).decode()}"


def _parse(file: Path) -> dict[str, bytes]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"access.htpasswd_file: cannot read {file}: {exc}") from exc
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        user, _, value = line.partition(":")
        where = f"access.htpasswd_file: {file}, line {number}"
        match = _HASH.fullmatch(value)
        if not match or not 4 <= int(match[1]) <= 31:
            raise ConfigError(f"{where}: only bcrypt hashes are accepted; write it with `htpasswd -B`")
        try:
            hashes[user_name(user)] = value.encode()
        except CredentialsError as exc:
            raise ConfigError(f"{where}: {exc.message}") from exc
    return hashes
