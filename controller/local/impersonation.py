"""Acting as somebody else: the headers of `kubectl --as`, for who may `impersonate` them."""

from multidict import MultiMapping

from controller.api.errors import StatusError
from controller.local.authentication import User, service_account
from controller.local.authorization import Action, is_allowed, refusal
from controller.local.store import Image

_USER, _GROUP = "Impersonate-User", "Impersonate-Group"
_ACCOUNT = "system:serviceaccount:"
_AUTHENTICATED = "system:authenticated"


def acting(image: Image, user: User, headers: MultiMapping[str]) -> User:
    """Whom a request with these headers speaks for: `user`, or whom they name. Raises StatusError 400 and 403."""
    name, groups = headers.get(_USER, ""), tuple(headers.getall(_GROUP, ()))
    if not name:
        if groups:
            raise StatusError(400, "BadRequest", f"{_GROUP} needs {_USER}")
        return user
    account = name.removeprefix(_ACCOUNT).split(":") if name.startswith(_ACCOUNT) else []
    is_account = len(account) == 2
    wanted = Action("impersonate", "", *(("serviceaccounts", *account) if is_account else ("users", "", name)))
    for action in (wanted, *(Action("impersonate", "", "groups", "", group) for group in groups)):
        if not is_allowed(image, user, action):
            raise refusal(user, action)
    if is_account and not groups:
        return service_account(*account)
    return User(name, tuple(dict.fromkeys((*groups, _AUTHENTICATED))))
