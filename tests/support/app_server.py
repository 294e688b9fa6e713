"""The registry's application in a thread of the test's own process, over any storage."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

from dvcr.access.authority import Authority
from dvcr.config import AccessSettings, RegistrySettings
from dvcr.http.app import build_app
from dvcr.http.state import STATE
from dvcr.registry.registry import Registry


class AppServer:
    """A context manager; `url` once it is entered. It asks who is there if there is `access`."""

    def __init__(
        self, registry: Registry, settings: RegistrySettings | None = None, access: AccessSettings | None = None
    ) -> None:
        self.registry = registry
        self.url = ""
        self._settings = settings or RegistrySettings()
        self._access = access
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.registry.verifier.close()
        self._app[STATE].threads.shutdown()

    async def _start(self) -> str:
        authority = Authority.from_settings(self._access) if self._access else None
        self._app = build_app(self.registry, self._settings, authority, self._access)
        self._runner = web.AppRunner(self._app, access_log=None, auto_decompress=False, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"
