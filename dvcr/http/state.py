"""What the handlers share, and how they reach the blocking domain code."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from dvcr.config import RegistrySettings
from dvcr.http.drain import Drain
from dvcr.http.metrics import Metrics
from dvcr.registry.names import repository_name
from dvcr.registry.registry import Registry

# Threads mostly wait for the disk; enough of them let concurrent fsyncs share one commit of the journal.
THREADS = 32

T = TypeVar("T")


@dataclass(frozen=True)
class State:
    """The registry behind the handlers of one application."""

    registry: Registry
    settings: RegistrySettings
    metrics: Metrics = field(default_factory=Metrics)
    drain: Drain = field(default_factory=Drain)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "registry"))
    bodies: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "bodies"))
    """For what arrives: a bucket that takes it slowly keeps nobody else waiting."""

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a blocking call, made in a thread."""
        with self.metrics.storage_seconds.time():
            return await asyncio.get_running_loop().run_in_executor(self.threads, call)


STATE = web.AppKey("state", State)


def repository_of(request: web.Request) -> str:
    """The repository that the request's path names; raises NameInvalidError."""
    return repository_name(request.match_info["name"])
