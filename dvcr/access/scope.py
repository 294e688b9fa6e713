"""What a token is for: `repository:vmi/default/win:pull,push` (Docker token protocol, "Token Scope Documentation")."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from dvcr.access.errors import ScopeError

MAX_SCOPES = 64
_MAX_LENGTH = 1024


class Action(StrEnum):
    """What one does with a repository."""

    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"


@dataclass(frozen=True)
class Scope:
    """Actions on one thing. Kinds, names and actions that mean nothing here are kept, and grant nothing."""

    kind: str
    name: str
    actions: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `kind:name:action,action`; a name may hold colons (`host:port/name`). Raises ScopeError."""
        kind, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        if not kind or not name or len(text) > _MAX_LENGTH or not text.isascii() or not text.isprintable():
            raise ScopeError("a scope is KIND:NAME:ACTION[,ACTION], for example repository:images/linux:pull,push")
        return cls(kind.partition("(")[0], name, frozenset(filter(None, actions.split(","))))

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{','.join(sorted(self.actions))}"


# What a caller needs to list repositories, as Docker's registry names it.
CATALOG = Scope("registry", "catalog", frozenset("*"))


def repository_scope(name: str, *actions: Action) -> Scope:
    """Actions on a repository."""
    return Scope("repository", name, frozenset(actions))


def parse_scopes(texts: Iterable[str]) -> list[Scope]:
    """The scopes of a token request: repeated parameters, each maybe several scopes between spaces."""
    words = [word for text in texts for word in text.split(" ") if word]
    if len(words) > MAX_SCOPES:
        raise ScopeError(f"{len(words)} scopes in one request; the limit is {MAX_SCOPES}")
    return [Scope.parse(word) for word in words]
