"""Who may do what to which repository. Pure; docs/access.md explains it in three sentences."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dvcr.access.caller import Caller
from dvcr.access.scope import CATALOG, Action, Scope, repository_scope
from dvcr.config import AccessSettings, RuleSettings
from dvcr.errors import ConfigError

EVERY_REPOSITORY = "**"
EVERY_USER = "*"

_GLOB = re.compile(r"[a-z0-9._/*-]+")
# A registry that knows users and states no rule trusts every one of them.
_DEFAULT_RULE = RuleSettings(repositories=(EVERY_REPOSITORY,), users=(EVERY_USER,), actions=tuple(Action))


@dataclass(frozen=True)
class _Rule:
    matches: Callable[[str], object]
    everywhere: bool
    actions: frozenset[str]
    users: frozenset[str]
    groups: frozenset[str]
    anonymous: bool

    def is_for(self, user: str, groups: frozenset[str]) -> bool:
        if self.anonymous:
            return True
        return bool(user) and (EVERY_USER in self.users or user in self.users or bool(self.groups & groups))


class Policy:
    """The rules. A caller may do what at least one of them grants, and nothing else."""

    def __init__(self, settings: AccessSettings) -> None:
        """Raises ConfigError where a rule can match nothing or nobody."""
        self._rules = [_compile(rule, settings.groups) for rule in settings.rules or (_DEFAULT_RULE,)]
        self._groups = settings.groups
        _require_groups(settings.admins, settings.groups, "access.admins")
        self._admins = frozenset(settings.admins)

    def allows(self, caller: Caller, repository: str, action: Action) -> bool:
        """Whether the caller may do this here and now: a rule grants it, and its token, if any, is for it."""
        return caller.holds(repository_scope(repository, action)) and self.grants(caller, repository, action)

    def grants(self, caller: Caller, repository: str, action: Action) -> bool:
        """Whether a rule grants this to the caller, whatever its token is for."""
        groups = self._groups_of(caller)
        return any(
            action in rule.actions and rule.is_for(caller.user, groups) and rule.matches(repository)
            for rule in self._rules
        )

    def pulls_everything(self, caller: Caller) -> bool:
        """Whether the caller may pull from every repository, those to come included.

        A token is for that if it is for `repository:**:pull`, which lets it mount from anywhere, and no more.
        """
        groups = self._groups_of(caller)
        return caller.holds(repository_scope(EVERY_REPOSITORY, Action.PULL)) and any(
            rule.everywhere and Action.PULL in rule.actions and rule.is_for(caller.user, groups) for rule in self._rules
        )

    def is_admin(self, caller: Caller) -> bool:
        """Whether the caller may collect garbage and see every repository's name. Not by a token, which is for less."""
        return caller.scopes is None and self._is_named_admin(caller)

    def may_list(self, caller: Caller) -> bool:
        """Whether the caller may ask for the catalog, which then shows what it may pull."""
        return caller.holds(CATALOG) and (bool(caller.user) or self.knows_anonymous)

    def lists(self, caller: Caller, repository: str) -> bool:
        """Whether the catalog shows the repository to the caller."""
        return self._is_named_admin(caller) or self.grants(caller, repository, Action.PULL)

    @property
    def knows_anonymous(self) -> bool:
        """Whether there is anything to do for somebody without credentials."""
        return any(rule.anonymous for rule in self._rules)

    def granted(self, caller: Caller, wanted: Scope) -> Scope | None:
        """As much of `wanted` as a token for the caller may be for; None for nothing. `*` stands for all actions."""
        if wanted == CATALOG:
            return CATALOG if self.may_list(caller) else None
        if wanted.kind != "repository":
            return None
        if wanted.name == EVERY_REPOSITORY:
            everywhere = repository_scope(EVERY_REPOSITORY, Action.PULL)
            return everywhere if wanted == everywhere and self.pulls_everything(caller) else None
        asked = tuple(Action) if "*" in wanted.actions else [a for a in Action if a in wanted.actions]
        actions = [action for action in asked if self.allows(caller, wanted.name, action)]
        return repository_scope(wanted.name, *actions) if actions else None

    def _is_named_admin(self, caller: Caller) -> bool:
        names = {f"@{group}" for group in self._groups_of(caller)} | ({caller.user} if caller.user else set())
        return bool(self._admins & names)

    def _groups_of(self, caller: Caller) -> frozenset[str]:
        if not caller.user or not self._groups:
            return caller.groups
        return caller.groups | {name for name, users in self._groups.items() if caller.user in users}


def _compile(rule: RuleSettings, groups: Mapping[str, object]) -> _Rule:
    for glob in rule.repositories:
        if not _GLOB.fullmatch(glob):
            raise ConfigError(
                f"access.rules: {glob!r} matches no repository: lower-case letters, digits, '.', '_', '-', '/', "
                "'*' for anything but '/', '**' for anything"
            )
    if not rule.users and not rule.anonymous:
        raise ConfigError(f"access.rules: the rule for {', '.join(rule.repositories)} names no users; '*' is everyone")
    _require_groups(rule.users, groups, "access.rules")
    return _Rule(
        matches=re.compile("|".join(map(_expression, rule.repositories))).fullmatch,
        everywhere=EVERY_REPOSITORY in rule.repositories,
        actions=frozenset(rule.actions),
        users=frozenset(name for name in rule.users if not name.startswith("@")),
        groups=frozenset(name[1:] for name in rule.users if name.startswith("@")),
        anonymous=rule.anonymous,
    )


def _expression(glob: str) -> str:
    parts = re.split(r"(\*\*+|\*)", glob)
    return "".join("[^/]*" if p == "*" else ".*" if p.startswith("**") else re.escape(p) for p in parts)


def _require_groups(names: tuple[str, ...], groups: Mapping[str, object], key: str) -> None:
    for name in names:
        # A group of an external issuer is NAME:GROUP; only the issuer knows which there are.
        if name.startswith("@") and ":" not in name and name[1:] not in groups:
            raise ConfigError(f"{key}: there is no group {name[1:]!r} in access.groups")
