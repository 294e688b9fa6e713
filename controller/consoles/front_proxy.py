"""Whom an aggregated API believes: the cluster's front proxy, which has authenticated and authorised the caller.

The cluster publishes the front proxy's certificate authority, the names that its certificates may have, and the headers
in which it names the caller, in a ConfigMap (Kubernetes documentation: configure the aggregation layer).
"""

import json
import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from controller.api.resource import CONFIG_MAP
from controller.runtime.index import Object
from controller.runtime.port import ClusterPort
from dvcr.access.certificates import certificate_caller
from dvcr.access.errors import CredentialsError
from dvcr.errors import ConfigError

CONFIG_MAP_NAME = "extension-apiserver-authentication"
CONFIG_MAP_NAMESPACE = "kube-system"


@dataclass(frozen=True)
class FrontProxy:
    """What the cluster tells of its front proxy."""

    authority: str
    """PEM."""
    allowed_names: tuple[str, ...]
    """Common names of its certificates; empty for any that the authority has issued."""
    user_headers: tuple[str, ...]

    @classmethod
    def read(cls, cluster: ClusterPort) -> "FrontProxy":
        """Raises ConfigError where the cluster has none."""
        found = cluster.get(CONFIG_MAP, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE)
        data: Object = (found or {}).get("data") or {}
        authority = data.get("requestheader-client-ca-file")
        if not authority:
            raise ConfigError(
                f"ConfigMap {CONFIG_MAP_NAMESPACE}/{CONFIG_MAP_NAME} names no front proxy: consoles of machines cannot "
                "be reached; start kube-apiserver with --requestheader-client-ca-file"
            )
        return cls(
            authority,
            _names(data, "requestheader-allowed-names"),
            _names(data, "requestheader-username-headers") or ("X-Remote-User",),
        )

    def trust(self, context: ssl.SSLContext) -> None:
        """Have a server's TLS ask for a certificate of this authority."""
        context.load_verify_locations(cadata=self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed shows no certificate again: it would outlive an authority that was taken away.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0

    def user(self, request: web.Request) -> str:
        """Whom the front proxy speaks for. Raises CredentialsError for who is not the front proxy."""
        certificate: dict[str, Any] = request.get_extra_info("peercert") or {}
        name = certificate_caller(certificate).user
        if self.allowed_names and name not in self.allowed_names:
            raise CredentialsError(f"{name} is not the cluster's front proxy; ask the API server")
        for header in self.user_headers:
            if user := request.headers.get(header):
                return user
        raise CredentialsError("the front proxy names no user")


def _names(data: Object, key: str) -> tuple[str, ...]:
    return tuple(json.loads(data.get(key) or "[]"))
