"""Manifests over HTTP (distribution-spec, "Pulling manifests", "Pushing Manifests", "Deleting Manifests")."""

from aiohttp import web

from dvcr.digest import Digest
from dvcr.http.body import read_all
from dvcr.http.errors import TooLargeError
from dvcr.http.state import STATE, repository_of
from dvcr.registry.names import reference, tag_name

MAX_TAGS = 100


async def get(request: web.Request) -> web.Response:
    """GET and HEAD: the manifest, byte for byte, with the media type it was pushed with."""
    state, repository = request.app[STATE], repository_of(request)
    named = reference(request.match_info["reference"])
    manifest = state.registry.manifests.recall(repository, named)
    if manifest is None:
        manifest = await state.run(lambda: state.registry.manifests.get(repository, named))
    etag = f'"{manifest.digest}"'
    headers = {"Content-Type": manifest.media_type, "Docker-Content-Digest": str(manifest.digest), "ETag": etag}
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=manifest.body, headers=headers)


async def put(request: web.Request) -> web.Response:
    """PUT: store a manifest under a tag, which may come with `?digest=`, or under its digest, maybe with `?tag=`s."""
    state, repository = request.app[STATE], repository_of(request)
    named = reference(request.match_info["reference"])
    digest: Digest | None
    if isinstance(named, Digest):
        digest, tags = named, [tag_name(tag) for tag in request.query.getall("tag", [])]
    else:
        digest = Digest.parse(request.query["digest"]) if "digest" in request.query else None
        tags = [named]
    if len(tags) > MAX_TAGS:
        raise TooLargeError(f"{len(tags)} tags in one request; the limit is {MAX_TAGS}")
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
    body = await read_all(request, state.settings.max_manifest_bytes)
    stored = await state.run(
        lambda: state.registry.manifests.put(repository, body, media_type, digest=digest, tags=tags)
    )
    response = web.Response(status=201)
    response.headers["Location"] = f"/v2/{repository}/manifests/{stored.digest}"
    response.headers["Docker-Content-Digest"] = str(stored.digest)
    if stored.subject:
        response.headers["OCI-Subject"] = str(stored.subject)
    if isinstance(named, Digest):
        for tag in tags:
            response.headers.add("OCI-Tag", tag)
    for warning in stored.warnings:
        response.headers.add("Warning", f'299 - "{warning}"')
    return response


async def delete(request: web.Request) -> web.Response:
    """DELETE: a tag, or by digest the manifest and all its tags."""
    state, repository = request.app[STATE], repository_of(request)
    named = reference(request.match_info["reference"])
    registry = state.registry
    if isinstance(named, Digest):
        await state.run(lambda: registry.manifests.delete(repository, named))
    else:
        await state.run(lambda: registry.tags.delete(repository, named))
    return web.Response(status=202)
