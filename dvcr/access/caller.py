"""Who makes a request."""

from collections.abc import Iterable
from dataclasses import dataclass

from dvcr.access.errors import CredentialsError
from dvcr.access.scope import Scope

MAX_USER_LENGTH = 255


@dataclass(frozen=True)
class Caller:
    """A user, with the groups that an external issuer vouches for, maybe confined to what its token is for."""

    user: str = ""
    """Empty: nobody in particular."""
    groups: frozenset[str] = frozenset()
    scopes: tuple[Scope, ...] | None = None
    """What the caller's token is for; None where it came with no token of ours, and may do all that the user may."""

    def holds(self, wanted: Scope) -> bool:
        """Whether the caller's token is for all of `wanted`."""
        if self.scopes is None:
            return True
        held = (scope for scope in self.scopes if (scope.kind, scope.name) == (wanted.kind, wanted.name))
        return any(wanted.actions <= scope.actions for scope in held)


ANONYMOUS = Caller()


def user_name(text: str) -> str:
    """`text` if it can be a user's name; CredentialsError otherwise. '@' and '*' begin other things in rules."""
    if not text or len(text) > MAX_USER_LENGTH or text[0] in "@*" or not text.isprintable() or " " in text:
        raise CredentialsError("a user name has 1 to 255 printable characters, no space, and begins with no @ or *")
    return text


def group_names(prefix: str, values: Iterable[object]) -> frozenset[str]:
    """The groups among `values`, each as `prefix:group`; what is no text is left out."""
    return frozenset(f"{prefix}:{value}" for value in values if isinstance(value, str) and value)
