"""Cross-origin requests (CORS), so that scripts of other sites' pages can upload."""

from aiohttp import web
from aiohttp.typedefs import Handler

_METHODS = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS"
_ASKED = (
    "Content-Type, Content-Range, Tus-Resumable, Upload-Length, Upload-Defer-Length, Upload-Offset, Upload-Metadata, "
    "Upload-Checksum, X-HTTP-Method-Override, X-Request-ID"
)
_TOLD = (
    "Location, Content-Range, Retry-After, Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, "
    "Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, Upload-Metadata, Upload-Expires, "
    "X-Request-ID"
)
_REMEMBER_S = 86400


class CrossOrigin:
    """Tells browsers which pages may upload. There are no cookies: whoever knows the address may use it."""

    def __init__(self, allowed_origins: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed_origins)

    @web.middleware
    async def allow(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Add the headers to the answer, if the page's origin is allowed."""
        response = await handler(request)
        origin = request.headers.get("Origin")
        if origin is None or not self._allowed & {"*", origin}:
            return response
        response.headers["Access-Control-Allow-Origin"] = "*" if "*" in self._allowed else origin
        response.headers["Vary"] = "Origin"
        response.headers["Access-Control-Expose-Headers"] = _TOLD
        if request.method == "OPTIONS":
            response.headers["Access-Control-Allow-Methods"] = _METHODS
            response.headers["Access-Control-Allow-Headers"] = _ASKED
            response.headers["Access-Control-Max-Age"] = str(_REMEMBER_S)
        return response
