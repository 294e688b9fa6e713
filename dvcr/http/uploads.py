"""Pushing blobs (distribution-spec, "Pushing Blobs")."""

from collections.abc import Callable, Iterable
from functools import cache, partial

from aiohttp import web

from dvcr.access.scope import Action
from dvcr.digest import Digest, digest_algorithm
from dvcr.http.authentication import rights_of
from dvcr.http.body import BATCH_BYTES, receive
from dvcr.http.errors import BadRequestError, RangeError
from dvcr.http.ranges import parse_chunk_range
from dvcr.http.state import STATE, repository_of
from dvcr.registry.names import repository_name
from dvcr.registry.uploads import Upload


async def begin(request: web.Request) -> web.Response:
    """POST: mount a blob, or push one in a single request, or begin a session."""
    state, repository = request.app[STATE], repository_of(request)
    registry = state.registry
    if "mount" in request.query:
        digest = Digest.parse(request.query["mount"])
        sources = _mount_sources(request, repository)

        def mount_or_begin() -> Upload | None:
            return None if registry.blobs.mount(repository, digest, sources) else registry.uploads.begin(repository)

        begun = await state.run(mount_or_begin)
        return _begun(request, repository, begun) if begun else _created(repository, digest)
    if "digest" not in request.query:
        algorithm = digest_algorithm(request.query.get("digest-algorithm", "sha256"))
        return _begun(request, repository, await state.run(partial(registry.uploads.begin, repository, algorithm)))
    digest = Digest.parse(request.query["digest"])
    # Begun by the thread that gets the first bytes: most bodies take a single trip to a thread.
    upload = cache(partial(registry.uploads.begin, repository))
    try:
        await _expect(request, lambda size_bytes: upload().expect(size_bytes))
        await receive(request, lambda data: upload().append(data), lambda: upload().commit(repository, digest))
    except BaseException:
        # Nobody knows the id of this session, so nobody could go on with it.
        await state.run(lambda: upload().abort())
        raise
    return _created(repository, digest)


async def append(request: web.Request) -> web.Response:
    """PATCH: add a chunk, or a stream of unknown length."""
    state, repository = request.app[STATE], repository_of(request)
    upload = await state.run(lambda: state.registry.uploads.resume(request.match_info["upload"], repository=repository))
    try:
        await _check_order(request, repository, upload)
        await _expect(request, upload.expect)
        size_bytes = await receive(request, upload.append, lambda: upload.size_bytes)
    finally:
        await state.run(upload.flush)
    return _session(repository, upload, size_bytes)


async def commit(request: web.Request) -> web.Response:
    """PUT: add the last bytes, if any, and make the session a blob."""
    state, repository = request.app[STATE], repository_of(request)
    if "digest" not in request.query:
        raise BadRequestError("the request that ends an upload needs ?digest=")
    digest = Digest.parse(request.query["digest"])
    upload = await state.run(
        lambda: state.registry.uploads.resume(request.match_info["upload"], digest.algorithm, repository)
    )
    try:
        await _check_order(request, repository, upload)
        await _expect(request, upload.expect)
        await receive(request, upload.append, lambda: upload.commit(repository, digest))
    except BaseException:
        await state.run(upload.flush)
        raise
    return _created(repository, digest)


async def status(request: web.Request) -> web.Response:
    """GET: how far the session is."""
    state, repository = request.app[STATE], repository_of(request)
    upload_id = request.match_info["upload"]
    size_bytes = await state.run(lambda: state.registry.uploads.size_bytes(upload_id))
    return web.Response(status=204, headers=_session_headers(repository, upload_id, size_bytes))


async def abort(request: web.Request) -> web.Response:
    """DELETE: end the session and forget its bytes."""
    state = request.app[STATE]
    repository_of(request)
    await state.run(lambda: state.registry.uploads.resume(request.match_info["upload"]).abort())
    return web.Response(status=204)


def _mount_sources(request: web.Request, repository: str) -> Iterable[str] | None:
    """Where the caller may take a blob from: nowhere that it could not pull it from."""
    rights = rights_of(request)
    if "from" not in request.query:
        return rights.mount_sources(repository)
    source = repository_name(request.query["from"])
    return [source] if rights.may(source, Action.PULL) else []


async def _check_order(request: web.Request, repository: str, upload: Upload) -> None:
    header = request.headers.get("Content-Range")
    if header is None:
        return
    chunk = parse_chunk_range(header)
    # Held from here on: nobody else's chunk may come in between.
    size_bytes = await request.app[STATE].run(upload.hold)
    if chunk.start != size_bytes:
        raise RangeError(
            f"the chunk begins at {chunk.start}, the upload continues at {size_bytes}",
            _session_headers(repository, upload.id, size_bytes),
        )
    if request.content_length is not None and request.content_length != chunk.length:
        raise BadRequestError(
            f"Content-Range {header} is {chunk.length} bytes, Content-Length {request.content_length}"
        )


async def _expect(request: web.Request, expect: Callable[[int], None]) -> None:
    """Refuse a large body before it comes. A small one is written at once, which tells as much."""
    size_bytes = request.content_length or 0
    if size_bytes > BATCH_BYTES:
        await request.app[STATE].run(partial(expect, size_bytes))


def _created(repository: str, digest: Digest) -> web.Response:
    return web.Response(
        status=201,
        headers={"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": str(digest)},
    )


def _begun(request: web.Request, repository: str, upload: Upload) -> web.Response:
    answer = _session(repository, upload, 0)
    if min_bytes := request.app[STATE].settings.min_chunk_bytes:
        answer.headers["OCI-Chunk-Min-Length"] = str(min_bytes)
    return answer


def _session(repository: str, upload: Upload, size_bytes: int) -> web.Response:
    return web.Response(status=202, headers=_session_headers(repository, upload.id, size_bytes))


def _session_headers(repository: str, upload_id: str, size_bytes: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{repository}/blobs/uploads/{upload_id}",
        "Docker-Upload-UUID": upload_id,
        # Both ends included; an empty session is "0-0" to clients since Docker's first registry.
        "Range": f"0-{max(size_bytes - 1, 0)}",
    }
