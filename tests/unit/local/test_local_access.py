"""Who may do what in the embedded cluster."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from multidict import CIMultiDict

from controller.api.errors import StatusError
from controller.local.authentication import Authenticator, User, service_account
from controller.local.authorization import Action, is_allowed, refusal
from controller.local.impersonation import acting
from controller.local.review import review
from controller.local.store import Image, Key, Stored

GROUP = "subresources.virtualization.deckhouse.io"
ALICE = service_account("team", "alice")
CONSOLE = Action("get", GROUP, "virtualmachines/console", "team", "web")


def image(*objects: dict[str, Any]) -> Image:
    """An image with these objects; roles and bindings go to their group."""
    made = Image()
    for number, obj in enumerate(objects, start=1):
        metadata = {"uid": f"u-{number}", "resourceVersion": str(number), **obj["metadata"]}
        group = "" if obj["kind"] == "ServiceAccount" else ".rbac.authorization.k8s.io"
        key = Key(f"{obj['kind'].lower()}s{group}", metadata.get("namespace", ""), metadata["name"])
        made.replace(None, Stored(key, number, {**obj, "metadata": metadata}, b""))
    return made


def role(kind: str = "Role", /, **rule: list[str]) -> dict[str, Any]:
    whole = {"verbs": ["get"], "apiGroups": [GROUP], "resources": ["virtualmachines/console"], **rule}
    metadata = {"name": "consoles"} | ({"namespace": "team"} if kind == "Role" else {})
    return {"kind": kind, "metadata": metadata, "rules": [whole]}


def binding(*subjects: dict[str, str], kind: str = "RoleBinding", role_kind: str = "Role") -> dict[str, Any]:
    metadata = {"name": "b"} | ({"namespace": "team"} if kind == "RoleBinding" else {})
    subjects = subjects or ({"kind": "ServiceAccount", "name": "alice"},)
    reference = {"kind": role_kind, "name": "consoles"}
    return {"kind": kind, "metadata": metadata, "subjects": [*subjects], "roleRef": reference}


def test_nobody_may_do_anything_unless_a_rule_grants_it() -> None:
    assert not is_allowed(image(), ALICE, CONSOLE)
    assert not is_allowed(image(role()), ALICE, CONSOLE)
    assert is_allowed(image(role(), binding()), ALICE, CONSOLE)


def test_the_owner_of_the_kubeconfig_may_do_everything() -> None:
    assert is_allowed(image(), User("dvcr", ("system:masters",)), CONSOLE)


def test_the_right_to_see_machines_is_not_the_right_to_their_consoles() -> None:
    seeing = role(apiGroups=["virtualization.deckhouse.io", GROUP], resources=["virtualmachines"])

    assert not is_allowed(image(seeing, binding()), ALICE, CONSOLE)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, True),
        ({"resources": ["*/console"]}, True),
        ({"resourceNames": ["web"]}, True),
        ({"resourceNames": ["db"]}, False),
        ({"verbs": ["list"]}, False),
        ({"apiGroups": ["virtualization.deckhouse.io"]}, False),
        ({"resources": ["virtualmachines/vnc"]}, False),
    ],
)
def test_rules(rule: dict[str, list[str]], allowed: bool) -> None:
    assert is_allowed(image(role(**rule), binding()), ALICE, CONSOLE) is allowed


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ({"kind": "User", "name": "system:serviceaccount:team:alice"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:team"}, True),
        ({"kind": "Group", "name": "system:authenticated"}, True),
        ({"kind": "ServiceAccount", "name": "alice", "namespace": "other"}, False),
        ({"kind": "User", "name": "alice"}, False),
    ],
)
def test_subjects(subject: dict[str, str], allowed: bool) -> None:
    assert is_allowed(image(role(), binding(subject)), ALICE, CONSOLE) is allowed


def test_a_binding_in_a_namespace_grants_nothing_in_another_one_or_in_the_cluster() -> None:
    granted = image(role("ClusterRole"), binding(role_kind="ClusterRole"))

    assert is_allowed(granted, ALICE, CONSOLE)
    assert not is_allowed(granted, ALICE, Action("get", GROUP, "virtualmachines/console", "other", "web"))
    assert not is_allowed(granted, ALICE, Action("get", GROUP, "virtualmachines/console", "", "web"))


def test_a_binding_of_the_cluster_grants_everywhere() -> None:
    subject = {"kind": "ServiceAccount", "name": "alice", "namespace": "team"}
    granted = image(role("ClusterRole"), binding(subject, kind="ClusterRoleBinding", role_kind="ClusterRole"))

    assert is_allowed(granted, ALICE, Action("get", GROUP, "virtualmachines/console", "other", "web"))


def test_the_refusal_says_what_is_missing() -> None:
    error = refusal(ALICE, CONSOLE)

    assert error.code == 403
    assert error.message == (
        'virtualmachines.subresources.virtualization.deckhouse.io "web" is forbidden: User '
        '"system:serviceaccount:team:alice" cannot get resource "virtualmachines/console" in API group '
        '"subresources.virtualization.deckhouse.io" in the namespace "team"'
    )


def account(uid: str = "u-1") -> dict[str, Any]:
    return {"kind": "ServiceAccount", "metadata": {"namespace": "team", "name": "alice", "uid": uid}}


def test_a_token_is_good_for_the_account_that_it_was_made_for() -> None:
    authenticator = Authenticator("admin-token", b"k" * 32)
    token, expires = authenticator.issue(account(), timedelta(hours=1))

    for scheme in ("Bearer", "bearer"):
        assert authenticator.user(image(account()), f"{scheme} {token}") == ALICE
    assert expires > datetime.now(UTC)
    assert authenticator.user(image(), f"Bearer {token}") is None, "the account is deleted"
    assert authenticator.user(image(account("u-2")), f"Bearer {token}") is None, "another account of that name"


def test_other_tokens_are_not_known() -> None:
    authenticator = Authenticator("admin-token", b"k" * 32)
    foreign, _ = Authenticator("admin-token", b"x" * 32).issue(account(), timedelta(hours=1))
    old, _ = authenticator.issue(account(), timedelta(seconds=-5))

    for header in ("", "Bearer ", "Bearer nonsense", "Basic admin-token", f"Bearer {foreign}", f"Bearer {old}"):
        assert authenticator.user(image(account()), header) is None, header
    assert authenticator.user(image(), "Bearer admin-token") == User("dvcr", ("system:masters", "system:authenticated"))


OWNER = User("dvcr", ("system:masters", "system:authenticated"))


def heads(*headers: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(headers)


def test_who_may_act_as_somebody_else_is_taken_for_them() -> None:
    assert acting(image(), OWNER, heads()) == OWNER
    named = heads(("impersonate-user", "ann"), ("impersonate-group", "readers"))
    assert acting(image(), OWNER, named) == User("ann", ("readers", "system:authenticated"))
    assert acting(image(), OWNER, heads(("Impersonate-User", ALICE.name))) == ALICE


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        (heads(("Impersonate-User", "ann")), 'users "ann" is forbidden'),
        (heads(("Impersonate-User", "system:serviceaccount:other:bob")), 'serviceaccounts "bob" is forbidden'),
        (heads(("Impersonate-User", "eve"), ("Impersonate-Group", "system:masters")), 'groups "system:masters" is'),
    ],
)
def test_who_may_not_is_refused(headers: CIMultiDict[str], missing: str) -> None:
    rule = role("ClusterRole", verbs=["impersonate"], apiGroups=[""], resources=["users"], resourceNames=["eve"])
    bound = binding({"kind": "ServiceAccount", "name": "alice", "namespace": "team"}, kind="ClusterRoleBinding",
                    role_kind="ClusterRole")  # fmt: skip
    with pytest.raises(StatusError) as refused:
        acting(image(rule, bound), ALICE, headers)
    assert (refused.value.code, missing in refused.value.message) == (403, True)


def test_groups_without_a_user_are_no_request() -> None:
    with pytest.raises(StatusError) as refused:
        acting(image(), OWNER, heads(("Impersonate-Group", "readers")))
    assert refused.value.code == 400


def test_one_is_told_who_one_is_and_what_one_may() -> None:
    told = review(image(role(), binding()), ALICE, "selfsubjectrulesreviews", {"spec": {"namespace": "team"}})["status"]
    assert {"verbs": ["get"], "apiGroups": [GROUP], "resources": ["virtualmachines/console"]} in told["resourceRules"]
    elsewhere = review(image(role(), binding()), ALICE, "selfsubjectrulesreviews", {"spec": {"namespace": "other"}})
    assert [rule["resources"] for rule in elsewhere["status"]["resourceRules"]] == [
        ["selfsubjectreviews"], ["selfsubjectaccessreviews"], ["selfsubjectrulesreviews"],
    ]  # fmt: skip
    who = review(image(), ALICE, "selfsubjectreviews", {})["status"]["userInfo"]
    assert who == {"username": ALICE.name, "groups": list(ALICE.groups)}
