"""The webhooks as the controller serves them."""

import ssl

from aiohttp import web

from controller.machines.authority import MachineAuthority
from controller.runtime.port import ClusterPort
from controller.service import service_name
from controller.webhooks.app import build_app
from controller.webhooks.registration import register
from controller.webhooks.rules import Rules
from dvcr.config import ControllerSettings


class WebhookSite:
    """See `controller.service.Site`."""

    title = "webhooks"
    setting = "controller.webhooks"

    def __init__(self, cluster: ClusterPort, authority: MachineAuthority, settings: ControllerSettings) -> None:
        self._cluster = cluster
        self._authority = authority
        self._settings = settings.webhooks
        self._name = self._settings.external_name or service_name(settings.namespace, self._settings.service)
        self.host, self.port = self._settings.host, self._settings.port

    def renew(self) -> ssl.SSLContext:
        pair, self._issuer = self._authority.serve(self._name)
        return pair.server_context()

    def app(self) -> web.Application:
        return build_app(Rules(self._cluster))

    def register(self, port: int) -> None:
        base_url = f"https://{self._name}:{port}" if self._settings.external_name else ""
        register(self._cluster, base_url, self._issuer)
