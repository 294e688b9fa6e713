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

# Asked for without `n`, or with a huge one, a page still ends somewhere (CVE-2023-2253).
MAX_CATALOG_PAGE = 1000
MAX_TAGS_PAGE = 10_000
# An index of referrers is read as a manifest is, of which clients take 4 MiB; one descriptor may be as long.
MAX_REFERRERS_BYTES = 4 * 2**20 - 2**10


async def tags(request: web.Request) -> web.Response:
    """GET: the tags of a repository, in lexical order, paged by `n` and `last`."""
    state, repository = request.app[STATE], repository_of(request)
    count, after = _page(request, MAX_TAGS_PAGE)
    found = await state.run(lambda: state.registry.tags.page(repository, count + 1, after))
    return _listing(request, {"name": repository}, "tags", found, count)


async def catalog(request: web.Request) -> web.Response:
    """GET: the repositories that hold manifests, in lexical order, paged by `n` and `last`."""
    state = request.app[STATE]
    count, after = _page(request, MAX_CATALOG_PAGE)
    rights = rights_of(request)
    found = await state.run(lambda: state.registry.catalog.page(count + 1, after, rights.may_list))
    return _listing(request, {}, "repositories", found, count)


async def referrers(request: web.Request) -> web.Response:
    """GET: an index of the manifests that refer to a digest; empty if there are none, whatever exists.

    One that would be too long for a manifest ends with a link to the next, which begins after `last`.
    """
    state, repository = request.app[STATE], repository_of(request)
    subject = Digest.parse(request.match_info["digest"])
    artifact_type = request.query.get("artifactType")
    after = request.query.get("last", "")

    def page() -> tuple[list[bytes], str]:
        """Encoded descriptors, and the digest of the last of them if more follow."""
        encoded: list[bytes] = []
        size_bytes, last = 0, ""
        for item in state.registry.referrers.of(repository, subject, artifact_type, after):
            encoded.append(json.dumps(item).encode())
            size_bytes += len(encoded[-1]) + 1
            if size_bytes > MAX_REFERRERS_BYTES and last:
                return encoded[:-1], last
            last = item["digest"]
        return encoded, ""

    found, last = await state.run(page)
    headers = {"Content-Type": IMAGE_INDEX}
    if artifact_type is not None:
        headers["OCI-Filters-Applied"] = "artifactType"
    if last:
        query = {"last": last} | ({} if artifact_type is None else {"artifactType": artifact_type})
        headers["Link"] = _next(request, query)
    begin = json.dumps({"schemaVersion": 2, "mediaType": IMAGE_INDEX}).encode()[:-1]
    return web.Response(body=begin + b', "manifests": [' + b",".join(found) + b"]}", headers=headers)


def _page(request: web.Request, longest: int) -> tuple[int, str]:
    text = request.query.get("n")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequestError(f"n is a number of entries, not {text!r}")
    return longest if text is None else min(int(text), longest), request.query.get("last", "")


def _next(request: web.Request, query: dict[str, Any]) -> str:
    return f'<{request.path}?{urlencode(query)}>; rel="next"'


def _listing(request: web.Request, answer: dict[str, Any], name: str, found: list[str], count: int) -> web.Response:
    """One entry more than `count` was asked for: it tells that there is a next page."""
    page = found[:count]
    headers = {"Content-Type": "application/json"}
    if page and len(found) > len(page):
        headers["Link"] = _next(request, {"n": count, "last": page[-1]})
    return web.Response(body=json.dumps(answer | {name: page}).encode(), headers=headers)
