"""The one table from errors to the wire (distribution-spec, "Error Codes"), and the middleware that applies it."""

import json

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from dvcr.access.errors import ScopeError
from dvcr.digest import InvalidDigestError
from dvcr.errors import DvcrError, NoSpaceError
from dvcr.registry import errors
from dvcr.storage.driver import SessionBusyError

log = structlog.get_logger(__name__)


class BadRequestError(DvcrError):
    """A parameter or header cannot be understood."""


class RangeError(DvcrError):
    """A chunk does not begin where the session ends, or a range begins behind the end of its blob."""

    def __init__(self, message: str, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class TooLargeError(DvcrError):
    """The body is larger than is accepted."""


class IdleError(DvcrError):
    """The client stopped sending in the middle of a body."""


# The first class that matches; anything else is a 500.
TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.NameInvalidError, 400, "NAME_INVALID"),
    (errors.NameUnknownError, 404, "NAME_UNKNOWN"),
    (errors.TagInvalidError, 400, "TAG_INVALID"),
    (errors.BlobUnknownError, 404, "BLOB_UNKNOWN"),
    (errors.UploadUnknownError, 404, "BLOB_UPLOAD_UNKNOWN"),
    (errors.ManifestUnknownError, 404, "MANIFEST_UNKNOWN"),
    # As if they were not there, so that clients push them again, which heals them.
    (errors.BlobCorruptError, 404, "BLOB_UNKNOWN"),
    (errors.ManifestCorruptError, 404, "MANIFEST_UNKNOWN"),
    (errors.ManifestInvalidError, 400, "MANIFEST_INVALID"),
    (errors.ManifestBlobUnknownError, 404, "MANIFEST_BLOB_UNKNOWN"),
    (errors.QuotaError, 403, "DENIED"),
    (errors.DigestMismatchError, 400, "DIGEST_INVALID"),
    (InvalidDigestError, 400, "DIGEST_INVALID"),
    (BadRequestError, 400, "UNSUPPORTED"),
    (ScopeError, 400, "UNSUPPORTED"),
    (RangeError, 416, "BLOB_UPLOAD_INVALID"),
    (TooLargeError, 413, "SIZE_INVALID"),
    (IdleError, 408, "BLOB_UPLOAD_INVALID"),
    (SessionBusyError, 409, "BLOB_UPLOAD_INVALID"),
    (NoSpaceError, 507, "INSUFFICIENT_STORAGE"),
)

# A session whose writer has died is free again within three such times (S3; on a file system at once).
_BUSY_RETRY_AFTER_S = 5


def wire_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error as OCI clients read it."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": {}}]})
    return web.Response(
        status=status, body=body.encode(), headers={"Content-Type": "application/json"} | (headers or {})
    )


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error by the table; what is not in it is logged with its traceback."""
    try:
        return await handler(request)
    except web.HTTPException as exc:  # the router's: no such route or method
        code = "UNSUPPORTED" if exc.status == 405 else "NOT_FOUND"
        allow = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else None
        return wire_error(exc.status, code, f"{request.method} {request.path}: {exc.reason}", allow)
    except ConnectionError:
        raise  # nobody is there to answer to
    except Exception as exc:
        for kind, status, code in TABLE:
            if isinstance(exc, kind):
                if status >= 500:
                    log.error("request refused", code=code, error=str(exc))  # noqa: TRY400  the message says it all
                busy = {"Retry-After": str(_BUSY_RETRY_AFTER_S)} if kind is SessionBusyError else None
                return wire_error(status, code, str(exc), getattr(exc, "headers", busy))
        log.exception("request failed", method=request.method, path=request.path)
        return wire_error(500, "UNKNOWN", "the registry failed; its log says why under this X-Request-ID")
