"""Why a caller is not let in; `dvcr.http.errors` maps each to the wire."""

from dvcr.errors import DvcrError


class CredentialsError(DvcrError):
    """The password, token or certificate is not good; the message tells no more than its holder may know."""

    default_reason = "Unauthorized"


class ScopeError(DvcrError):
    """The text is no scope of the Docker token protocol, or there are too many of them."""

    default_reason = "ScopeInvalid"
