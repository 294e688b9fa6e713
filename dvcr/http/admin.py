"""What only administrators may do (`access.admins`)."""

import asyncio
import json
import time
from dataclasses import asdict

from aiohttp import web

from dvcr.http.state import STATE


async def collect(request: web.Request) -> web.Response:
    """POST /admin/collect: collect garbage now, or with `?dry_run=true` only count it; answers the report."""
    state = request.app[STATE]
    dry_run = request.query.get("dry_run", "").lower() in ("1", "true")
    begin = time.monotonic()
    # Not one of the threads that requests wait for: a run may take minutes.
    report = await asyncio.to_thread(state.registry.collector.run, dry_run=dry_run)
    if not dry_run:
        state.metrics.collected(report, time.monotonic() - begin)
    return web.Response(body=json.dumps(asdict(report)).encode(), headers={"Content-Type": "application/json"})
