"""API groups that another server serves: APIServices, as kube-aggregator does it for as much as DVCR uses.

The server is asked over TLS with our front proxy's certificate, and told who calls by headers; it believes them for
that certificate. Who may do what has been decided here before. Only Services of type ExternalName can be reached:
there is no network of Services here.
"""

import base64
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from controller.api.errors import StatusError
from controller.certificates import Authority, KeyPair
from controller.local.authentication import User
from controller.local.credentials import LIFETIME, write_private
from controller.local.store import Image, Key, Stored
from controller.relay import RefusedError, UnreachableError, Upstream, pass_on

API_SERVICES = "apiservices.apiregistration.k8s.io"
FRONT_PROXY = "dvcr-front-proxy"
CONFIG_MAP_NAME = "extension-apiserver-authentication"
CONFIG_MAP_NAMESPACE = "kube-system"
_DEFAULT_PORT = 443


@dataclass(frozen=True)
class FrontProxy:
    """The certificate by which other API servers know us, and the authority that they check it with (both PEM)."""

    authority: bytes
    pair: KeyPair

    @classmethod
    def load(cls, folder: Path) -> "FrontProxy":
        """What is kept in `folder`; made at the first start."""
        files = [folder / f"front-proxy{suffix}" for suffix in ("-ca.crt", ".crt", ".key")]
        if not all(file.exists() for file in files):
            now = datetime.now(UTC)
            authority = Authority.create("dvcr-front-proxy-ca", now)
            pair = authority.issue(FRONT_PROXY, [FRONT_PROXY], now, LIFETIME, server=False, client=True)
            for file, content in zip(files, (authority.pair.certificate, pair.certificate, pair.key), strict=True):
                write_private(file, content)
        authority_pem, certificate, key = (file.read_bytes() for file in files)
        return cls(authority_pem, KeyPair(certificate, key))

    def config_map(self) -> dict[str, Any]:
        """What other API servers need to know of us, where Kubernetes keeps it."""
        return {
            "metadata": {"name": CONFIG_MAP_NAME, "namespace": CONFIG_MAP_NAMESPACE},
            "data": {
                "requestheader-client-ca-file": self.authority.decode(),
                "requestheader-allowed-names": f'["{FRONT_PROXY}"]',
                "requestheader-username-headers": '["X-Remote-User"]',
                "requestheader-group-headers": '["X-Remote-Group"]',
                "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
            },
        }


class Aggregator:
    """Passes requests on to the servers that APIServices name."""

    def __init__(self, front_proxy: FrontProxy) -> None:
        self._front_proxy = front_proxy
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def pass_on(
        self, request: web.Request, session: aiohttp.ClientSession, image: Image, service: Stored, user: User
    ) -> web.StreamResponse:
        """Answer what the server of `service` answers. Raises StatusError 503 if it cannot be reached."""
        if request.method != "GET":
            raise StatusError(405, "MethodNotAllowed", "the embedded cluster passes only GET on to other API servers")
        upstream = self._upstream(request, image, service, user)
        try:
            return await pass_on(request, session, upstream)
        except RefusedError as exc:
            return web.Response(body=exc.body, status=exc.status, content_type=exc.content_type)
        except UnreachableError as exc:
            raise _unavailable(service, exc.message) from exc

    def _upstream(self, request: web.Request, image: Image, service: Stored, user: User) -> Upstream:
        spec = service.obj["spec"]
        named = spec["service"]
        found = image.get(Key("services", named["namespace"], named["name"]))
        host = (found.obj.get("spec") or {}).get("externalName") if found else None
        if not host:
            raise _unavailable(service, f"Service {named['namespace']}/{named['name']} has no externalName")
        bundle = spec.get("caBundle")
        if not bundle:
            raise _unavailable(service, "it has no caBundle")
        # Written anew from what was read for RBAC: the other server is to read the same.
        path = URL.build(path=request.path, query_string=request.query_string)
        headers = (("X-Remote-User", user.name), *(("X-Remote-Group", group) for group in user.groups))
        return Upstream(
            f"https://{host}:{named.get('port', _DEFAULT_PORT)}{path}",
            self._context(bundle),
            f"{named['name']}.{named['namespace']}.svc",
            headers,
        )

    def _context(self, bundle: str) -> ssl.SSLContext:
        if bundle not in self._contexts:
            self._contexts = {bundle: self._front_proxy.pair.client_context(base64.b64decode(bundle))}
        return self._contexts[bundle]


def find_service(image: Image, group: str, version: str) -> Stored | None:
    """The APIService by which another server serves this group and version."""
    return image.get(Key(API_SERVICES, "", f"{version}.{group}")) if group else None


def aggregated(image: Image) -> list[tuple[str, str]]:
    """The groups and versions that other servers serve."""
    return [(each.obj["spec"]["group"], each.obj["spec"]["version"]) for each in image.of(API_SERVICES)]


def _unavailable(service: Stored, why: str) -> StatusError:
    return StatusError(503, "ServiceUnavailable", f"the server of APIService {service.key.name} is unavailable: {why}")
