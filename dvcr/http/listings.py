"""Lists: tags, repositories, referrers (distribution-spec, "Content Discovery")."""

import json
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from dvcr.descriptor import IMAGE_INDEX
from dvcr.digest import Digest
from dvcr.http.authentication import rights_of
from dvcr.http.errors import BadRequestError
from dvcr.http.state import STATE, repository_of

# Asked for without `n`, or with a huge one, a catalog page still ends somewhere (CVE-2023-2253).
MAX_CATALOG_PAGE = 1000


async def tags(request: web.Request) -> web.Response:
    """GET: the tags of a repository, in lexical order, paged by `n` and `last`."""
    state, repository = request.app[STATE], repository_of(request)
    count, after = _page(request)
    found = await state.run(lambda: state.registry.tags.page(repository, None if count is None else count + 1, after))
    return _listing(request, {"name": repository}, "tags", found, count)


async def catalog(request: web.Request) -> web.Response:
    """GET: the repositories that hold manifests, in lexical order, paged by `n` and `last`."""
    state = request.app[STATE]
    count, after = _page(request)
    count = MAX_CATALOG_PAGE if count is None else min(count, MAX_CATALOG_PAGE)
    rights = rights_of(request)
    found = await state.run(lambda: state.registry.catalog.page(count + 1, after, rights.may_list))
    return _listing(request, {}, "repositories", found, count)


async def referrers(request: web.Request) -> web.Response:
    """GET: an index of the manifests that refer to a digest; empty if there are none, whatever exists."""
    state, repository = request.app[STATE], repository_of(request)
    subject = Digest.parse(request.match_info["digest"])
    artifact_type = request.query.get("artifactType")
    found = await state.run(lambda: state.registry.referrers.of(repository, subject, artifact_type))
    headers = {"Content-Type": IMAGE_INDEX}
    if artifact_type is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": found}
    return web.Response(body=json.dumps(index).encode(), headers=headers)


def _page(request: web.Request) -> tuple[int | None, str]:
    text = request.query.get("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequestError(f"n is a number of entries, not {text!r}")
    return None if text is None else int(text), request.query.get("last", "")


def _listing(
    request: web.Request, answer: dict[str, Any], name: str, found: list[str], count: int | None
) -> web.Response:
    """One entry more than `count` was asked for: it tells that there is a next page."""
    page = found[:count]
    headers = {"Content-Type": "application/json"}
    if page and len(found) > len(page):
        query = urlencode({"n": count, "last": page[-1]})
        headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return web.Response(body=json.dumps(answer | {name: page}).encode(), headers=headers)
