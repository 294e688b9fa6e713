"""The machine API as the controller serves it."""

import ssl
from dataclasses import dataclass

from aiohttp import web

from controller.consoles.api import build_app
from controller.consoles.front_proxy import FrontProxy
from controller.consoles.registration import register
from controller.machines.authority import MachineAuthority
from controller.runtime.port import ClusterPort
from controller.service import service_name
from dvcr.config import ControllerSettings


@dataclass(frozen=True)
class _Trust:
    """Whom the server believes, and by what authority it is known."""

    front_proxy: FrontProxy
    authority: bytes


class MachineApiSite:
    """See `controller.service.Site`. `renew` raises ConfigError where the cluster has no front proxy."""

    title = "machine API"
    setting = "controller.machine_api"

    def __init__(self, cluster: ClusterPort, authority: MachineAuthority, settings: ControllerSettings) -> None:
        self._cluster = cluster
        self._authority = authority
        self._namespace = settings.namespace
        self._settings = settings.machine_api
        self.host, self.port = self._settings.host, self._settings.port

    def renew(self) -> ssl.SSLContext:
        front_proxy = FrontProxy.read(self._cluster)
        pair, authority = self._authority.serve(service_name(self._namespace, self._settings.service))
        context = pair.server_context()
        front_proxy.trust(context)
        self._trust = _Trust(front_proxy, authority)
        return context

    def app(self) -> web.Application:
        return build_app(self._cluster, self._authority.client_context, lambda: self._trust.front_proxy)

    def register(self, port: int) -> None:
        where = self._settings
        register(self._cluster, self._namespace, where.service, where.external_name, port, self._trust.authority)
