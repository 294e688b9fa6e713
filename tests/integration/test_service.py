"""What the API server calls in the controller: from when on it may."""

import ssl
import threading
from pathlib import Path

import requests
from aiohttp import web

from controller.service import Service
from dvcr.errors import DvcrError
from tests.support.certificates import self_signed
from tests.support.kubernetes import free_port
from tests.support.waiting import eventually

TIMEOUT_S = 10


class SlowSite:
    """A site whose certificate is not made before it is released."""

    title, setting, host = "slow site", "site", "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.pair = self_signed(folder, self.host)
        self.released, self.asked = threading.Event(), threading.Event()
        self.registered: list[int] = []

    def renew(self) -> ssl.SSLContext:
        self.asked.set()
        if not self.released.wait(TIMEOUT_S):
            raise DvcrError("no certificate yet")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.pair)
        return context

    def app(self) -> web.Application:
        async def hello(_request: web.Request) -> web.Response:
            return web.Response(text="hello")

        app = web.Application()
        app.router.add_get("/", hello)
        return app

    def register(self, port: int) -> None:
        self.registered.append(port)


def test_it_is_listening_from_when_on_it_answers(tmp_path: Path) -> None:
    site = SlowSite(tmp_path)
    with Service(site) as service:
        assert site.asked.wait(TIMEOUT_S)
        assert not service.listening.is_set()

        site.released.set()

        assert service.listening.wait(TIMEOUT_S)
        answer = requests.get(f"https://127.0.0.1:{site.port}/", verify=str(site.pair[0]), timeout=TIMEOUT_S)
        assert answer.text == "hello"
        eventually(lambda: site.registered == [site.port], "the site is registered")
