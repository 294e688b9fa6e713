"""The user that a client certificate names (RFC 5280 §4.1.2.6, §4.2.1.6)."""

from collections.abc import Mapping
from typing import Any

from dvcr.access.caller import Caller, user_name
from dvcr.access.errors import CredentialsError

_ALTERNATIVES = ("URI", "email", "DNS")


def certificate_caller(certificate: Mapping[str, Any]) -> Caller:
    """The caller with this certificate, as `ssl.SSLSocket.getpeercert` gives one that was verified.

    Its one common name, else the first of its alternative names. Raises CredentialsError where it has none.
    """
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if not names:
        alternatives = certificate.get("subjectAltName", ())
        names = [value for kind in _ALTERNATIVES for key, value in alternatives if key == kind][:1]
    if len(names) != 1:
        raise CredentialsError("the client certificate names no user, or several")
    return Caller(user_name(names[0]))
