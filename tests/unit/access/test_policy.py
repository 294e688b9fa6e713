"""Who may do what: globs, users, groups, everybody, and tokens that confine."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvcr.access.caller import ANONYMOUS, Caller
from dvcr.access.policy import Policy
from dvcr.access.scope import CATALOG, Action, Scope, repository_scope
from dvcr.config import AccessSettings
from dvcr.errors import ConfigError
from dvcr.registry.names import repository_name

ALICE, BOB = Caller("alice"), Caller("bob")
names = st.from_regex(re.compile(r"[a-z0-9]{1,4}(/[a-z0-9]{1,4}){0,3}"), fullmatch=True)


def policy(*rules: dict[str, Any], **settings: Any) -> Policy:
    return Policy(AccessSettings.model_validate({"rules": rules} | settings))


def rule(repositories: str, actions: str, *users: str, anonymous: bool = False) -> dict[str, Any]:
    words = repositories.split(), actions.split()
    return {"repositories": words[0], "actions": words[1], "users": users, "anonymous": anonymous}


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("vmi/default/win", "vmi/default/win", True),
        ("vmi/default/win", "vmi/default/windows", False),
        ("vmi/*/win", "vmi/default/win", True),
        ("vmi/*/win", "vmi/a/b/win", False),
        ("vmi/*", "vmi/a/b", False),
        ("vmi/**", "vmi/a/b", True),
        ("vmi/**", "vmi", False),
        ("vmi/**", "vmi2/a", False),
        ("**", "any/thing", True),
        ("*", "any/thing", False),
        ("**/win-*", "a/b/win-11", True),
        ("a.b", "aXb", False),
    ],
)
def test_globs(glob: str, name: str, matches: bool) -> None:
    assert policy(rule(glob, "pull", "alice")).allows(ALICE, name, Action.PULL) is matches


def test_rules_add_up_and_nothing_else_is_granted() -> None:
    rules = policy(
        rule("**", "pull", "*"), rule("a/**", "push", "@builders"), rule("pub/*", "pull", anonymous=True),
        groups={"builders": ["bob"]},
    )  # fmt: skip
    assert rules.allows(ALICE, "a/x", Action.PULL)
    assert not rules.allows(ALICE, "a/x", Action.PUSH)
    assert rules.allows(BOB, "a/x", Action.PUSH)
    assert not rules.allows(BOB, "b/x", Action.PUSH)
    assert not rules.allows(BOB, "a/x", Action.DELETE)
    assert rules.allows(ANONYMOUS, "pub/x", Action.PULL)
    assert not rules.allows(ANONYMOUS, "pub/x", Action.PUSH)
    assert not rules.allows(ANONYMOUS, "a/x", Action.PULL)


def test_without_rules_who_is_known_may_do_everything_and_nobody_else() -> None:
    assert all(policy().allows(ALICE, "a/x", action) for action in Action)
    assert not any(policy().allows(ANONYMOUS, "a/x", action) for action in Action)


def test_groups_of_an_issuer_count_under_its_name_only() -> None:
    rules = policy(rule("a", "pull", "@ci:ops", "@ops"), groups={"ops": ["bob"]})
    assert rules.allows(Caller("ci:x", frozenset({"ci:ops"})), "a", Action.PULL)
    assert not rules.allows(Caller("ci:x", frozenset({"ci:dev"})), "a", Action.PULL)


def test_a_token_confines() -> None:
    rules = policy(rule("a", "pull push delete", "alice"))
    token = Caller("alice", scopes=(repository_scope("a", Action.PULL, Action.PUSH),))
    assert rules.allows(token, "a", Action.PUSH)
    assert not rules.allows(token, "a", Action.DELETE)
    assert not rules.allows(token, "b", Action.PULL)
    assert not rules.pulls_everything(token)


def test_a_token_does_not_outlive_its_rule() -> None:
    token = Caller("alice", scopes=(repository_scope("a", Action.PUSH),))
    assert not policy(rule("a", "pull", "alice")).allows(token, "a", Action.PUSH)


def test_a_token_gets_as_much_as_the_rules_grant() -> None:
    rules = policy(rule("a", "pull push", "alice"))
    assert rules.granted(ALICE, Scope.parse("repository:a:pull,push,delete")) == Scope.parse("repository:a:pull,push")
    assert rules.granted(ALICE, Scope.parse("repository:a:*")) == Scope.parse("repository:a:pull,push")
    assert rules.granted(ALICE, Scope.parse("repository:b:pull")) is None
    assert rules.granted(ALICE, Scope.parse("repository:*:pull")) is None
    assert rules.granted(ALICE, Scope.parse("plugin:a:pull")) is None
    assert rules.granted(ALICE, CATALOG) == CATALOG
    assert rules.granted(ANONYMOUS, CATALOG) is None


def test_a_token_for_mounts_from_anywhere_is_for_those_who_may_pull_everything() -> None:
    everywhere = repository_scope("**", Action.PULL)
    rules = policy(rule("**", "pull push", "alice"), rule("*", "pull push", "bob"), rule("*/**", "pull push", "bob"))
    assert rules.granted(ALICE, everywhere) == everywhere
    assert rules.granted(BOB, everywhere) is None
    assert rules.granted(ALICE, Scope.parse("repository:**:pull,push")) is None
    assert rules.granted(Caller("alice", scopes=()), everywhere) is None
    token = Caller("alice", scopes=(everywhere,))
    assert rules.pulls_everything(token)
    assert not rules.pulls_everything(Caller("bob", scopes=(everywhere,)))
    assert not rules.allows(token, "a", Action.PULL)


def test_administrators_see_names_and_collect_but_do_not_pull() -> None:
    rules = policy(rule("a", "pull", "alice"), admins=["bob", "@ops"], groups={"ops": ["carol"]})
    assert rules.is_admin(BOB)
    assert rules.is_admin(Caller("carol"))
    assert not rules.is_admin(ALICE)
    assert not rules.is_admin(ANONYMOUS)
    assert not rules.is_admin(Caller("bob", scopes=()))
    assert rules.lists(BOB, "a")
    assert not rules.lists(ALICE, "b")
    assert not rules.allows(BOB, "a", Action.PULL)


@pytest.mark.parametrize(
    "settings",
    [
        {"rules": [rule("Upper", "pull", "alice")]},
        {"rules": [rule("a/[bc]", "pull", "alice")]},
        {"rules": [rule("a", "pull")]},
        {"rules": [rule("a", "pull", "@nobody")]},
        {"admins": ["@nobody"]},
    ],
)
def test_rules_that_mean_nothing_refuse_to_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="access"):
        Policy(AccessSettings.model_validate(settings))


@given(names, st.lists(st.sampled_from(["a", "*", "**", "/", "b", "-"]), min_size=1, max_size=6).map("".join))
def test_no_glob_reaches_beyond_what_it_says(name: str, glob: str) -> None:
    assert repository_name(name)
    if not policy(rule(glob, "pull", "alice")).allows(ALICE, name, Action.PULL):
        return
    if "**" not in glob:
        assert glob.count("/") == name.count("/")
    for literal in re.split(r"\*+", glob):
        assert literal in name


@given(st.text(max_size=12), st.sets(st.sampled_from([*Action, "*", "admin"])))
def test_no_scope_gets_more_than_the_user_may(name: str, actions: set[str]) -> None:
    rules = policy(rule("a/*", "pull", "alice"))
    granted = rules.granted(ALICE, Scope("repository", name, frozenset(actions)))
    if granted is not None:
        assert granted.actions == {"pull"}
        assert rules.allows(ALICE, name, Action.PULL)
