"""The embedded cluster's process: its store, credentials, first objects, and server."""

import asyncio
import contextlib
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from aiohttp import web

from controller.api.kinds import crds
from controller.local import cascade, lifecycle
from controller.local.aggregation import Aggregator, FrontProxy
from controller.local.authentication import Authenticator
from controller.local.builtin import BUILT_IN
from controller.local.credentials import Credentials, reachable_host
from controller.local.definition import CRD_RESOURCE, Definition
from controller.local.server import build_app
from controller.local.store import Store, Transaction
from dvcr.config import ClusterSettings
from dvcr.errors import ConfigError, StorageError

_EVENTS = "events"
_EVENT_LIFETIME = timedelta(hours=1)
_EVENT_CHECK_INTERVAL_S = 300
_log = structlog.get_logger(__name__)


async def serve(settings: ClusterSettings) -> None:
    """Serve the API until SIGTERM or SIGINT; prints `listening on …` once the kubeconfig is written.

    Raises StorageError if the database cannot be used, ConfigError if the address cannot be listened on.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    credentials = await asyncio.to_thread(Credentials.load, settings.data_dir, settings.host)
    front_proxy = await asyncio.to_thread(FrontProxy.load, settings.data_dir)
    store = Store(settings.data_dir / "cluster.db")
    store.start()
    try:
        await store.write(lambda tx: install(tx, front_proxy.config_map()))
        authenticator = Authenticator(credentials.token, credentials.signing_key)
        app = build_app(store, authenticator, Aggregator(front_proxy))
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2)
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port, ssl_context=credentials.server_context())
            try:
                await site.start()
            except OSError as exc:
                raise ConfigError(
                    f"cannot listen on cluster.host {settings.host}, cluster.port {settings.port}: {exc.strerror}"
                ) from exc
            url = f"https://{reachable_host(settings.host)}:{runner.addresses[0][1]}"
            await asyncio.to_thread(credentials.write_kubeconfig, settings.kubeconfig, url)
            print(f"listening on {url}", flush=True)
            await _until_stopped(store)
        finally:
            await runner.cleanup()
    finally:
        await store.close()


def install(tx: Transaction, front_proxy: dict[str, Any]) -> None:
    """Make the namespaces that always exist, and create or update what other API servers need to know of this one,
    and the CRDs of this project."""
    by_resource = {each.resource: each for each in BUILT_IN}
    for name in lifecycle.KEPT_NAMESPACES:
        _ensure(tx, by_resource[cascade.NAMESPACES], {"metadata": {"name": name}})
    _ensure(tx, by_resource["configmaps"], front_proxy)
    for crd in crds():
        _ensure(tx, by_resource[CRD_RESOURCE], crd)


def _ensure(tx: Transaction, definition: Definition, obj: dict[str, Any]) -> None:
    target = lifecycle.Target(definition, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
    content: dict[str, Any] = {part: obj[part] for part in ("spec", "data") if part in obj}
    if tx.image.get(target.key) is None:
        lifecycle.create(tx, target, obj)
    elif content:
        lifecycle.update(tx, target, lambda old: {**old, **content})


def forget_events(tx: Transaction, before: datetime) -> None:
    """Delete the Events that happened before a time; nobody else does."""
    limit = cascade.timestamp(before)
    for event in tx.image.of(_EVENTS):
        if (event.obj.get("lastTimestamp") or event.obj["metadata"]["creationTimestamp"]) < limit:
            cascade.begin_delete(tx, event)


async def _until_stopped(store: Store) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        try:
            await store.write(lambda tx: forget_events(tx, datetime.now(UTC) - _EVENT_LIFETIME))
        except StorageError as exc:
            _log.warning("old events stay", error=exc.message)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EVENT_CHECK_INTERVAL_S):
                await stopped.wait()
