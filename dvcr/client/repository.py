"""A repository of a registry: blobs, manifests and tags (distribution-spec 1.1)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import requests

from dvcr.client.cancellation import Cancellation
from dvcr.client.retry import RetryPolicy, TellRetry, retried
from dvcr.client.transport import PIECE_BYTES, Transport, read_at_most
from dvcr.client.upload import BlobUpload, upload_location
from dvcr.descriptor import DOCKER_MANIFEST, DOCKER_MANIFEST_LIST, IMAGE_INDEX, IMAGE_MANIFEST, OCTET_STREAM
from dvcr.digest import Digest, InvalidDigestError
from dvcr.errors import IntegrityError, RegistryError

_BLOB_HEADERS = {"Content-Type": OCTET_STREAM}
MAX_MANIFEST_BYTES = 4 * 2**20
_ACCEPT = ", ".join((IMAGE_MANIFEST, IMAGE_INDEX, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST))
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as stored; `body` has the digest `digest`."""

    media_type: str
    digest: Digest
    body: bytes


class Repository:
    """One repository. Blocking, thread-safe; transient failures are retried before they are raised.

    Every method raises RegistryError where the registry refuses or does not answer.
    """

    def __init__(self, transport: Transport, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no repository name: lower-case letters, digits and . _ - between slashes")
        self.name = name
        self._transport = transport
        self._base = f"v2/{name}"
        self._pull = f"repository:{name}:pull"
        self._push = f"repository:{name}:pull,push"
        # A key of its own: to mount, a registry may want a token that is for the other repositories too.
        self._mount = f"{self._push} mount"
        self._delete = f"repository:{name}:delete"
        self._takes_single_posts = True

    def on_behalf_of(self, cancellation: Cancellation, on_retry: TellRetry | None = None) -> "Repository":
        """The same repository, as Transport says; in place of whom it was asked for before."""
        return Repository(self._transport.on_behalf_of(cancellation, on_retry), self.name)

    @property
    def retry(self) -> RetryPolicy:
        """How transient failures are retried."""
        return self._transport.retry

    @retried
    def has_blob(self, digest: Digest) -> bool:
        """Whether the repository has the blob."""
        with self._transport.request("HEAD", self._blob(digest), scope=self._pull, expect=(200, 404)) as response:
            return response.status_code == 200

    @retried
    def read_blob(self, digest: Digest, offset_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """A blob, or that range of it; shorter than asked where the blob ends before.

        Reads of the whole blob, with neither offset nor length, are verified: IntegrityError. A range cannot be.
        Holds the result in memory, and never more than `length_bytes`, whatever the registry sends.
        """
        if length_bytes == 0:
            return b""
        data = b"".join(self._pieces(digest, offset_bytes, length_bytes))
        if offset_bytes == 0 and length_bytes is None:
            digest.verify(data)
        return data

    def open_blob(self, digest: Digest, size_bytes: int) -> Iterator[bytes]:
        """The blob of that size in pieces of at most 1 MiB; goes on where a connection broke.

        IntegrityError once the registry sends more, and after the last piece where they are fewer bytes or do not have
        the digest: use nothing before the end.
        """
        hasher, position, failures = digest.hasher(), 0, 0
        while True:
            try:
                for piece in self._pieces(digest, position, None):
                    position += len(piece)
                    if position > size_bytes:
                        raise _mismatch(digest, f"the registry sends more than its {size_bytes} bytes")
                    hasher.update(piece)
                    failures = 0
                    yield piece
                break
            except RegistryError as error:
                failures += 1
                if not error.retryable or failures >= self.retry.attempts:
                    raise
                self.retry.wait(failures, error)
        if position < size_bytes:
            raise _mismatch(digest, f"the registry sent {position} of its {size_bytes} bytes")
        if hasher.digest() != digest:
            raise _mismatch(digest, f"the registry sent {hasher.digest()}")

    def push_blob(self, digest: Digest, data: bytes | bytearray | memoryview, *, mount: bool = True) -> bool:
        """Make the repository have the blob; whether its bytes had to be sent. Idempotent.

        With `mount` the registry is asked to mount the blob first, without naming a repository to mount it from: one
        that knows the digest answers 201 and nothing is sent. Without, the blob is sent at once, in a single request
        where the registry takes that: for blobs that it hardly has.
        """
        sent = False

        def push() -> None:
            nonlocal sent
            single = not mount and self._takes_single_posts
            scope = self._push if single else self._mount
            sent |= single
            with self._transport.request(
                "POST",
                f"{self._base}/blobs/uploads/",
                scope=scope,
                query={"digest" if single else "mount": str(digest)},
                headers=_BLOB_HEADERS if single else None,
                body=bytes(data) if single else b"",
                expect=(201, 202),
            ) as response:
                if response.status_code == 201:
                    return
                location = upload_location(response)
            if single:
                self._takes_single_posts = False  # it is optional; such a registry opens a session instead
            sent = True
            with self._transport.request(
                "PUT",
                location,
                scope=scope,
                query={"digest": str(digest)},
                headers=_BLOB_HEADERS,
                body=bytes(data),
                expect=(201,),
            ):
                pass

        self.retry.run(push)
        return sent

    @retried
    def begin_upload(self) -> BlobUpload:
        """A new, empty upload session."""
        with self._transport.request(
            "POST", f"{self._base}/blobs/uploads/", scope=self._push, expect=(202,), discard=self._abandon
        ) as response:
            return self._upload(upload_location(response))

    @retried
    def mount_or_begin(self, digest: Digest, source: str | None = None) -> BlobUpload | None:
        """Have the registry mount the blob, from the repository `source` or, without, from wherever it has it.

        None: it is here now. Else an upload session for its bytes.
        """
        query = {"mount": str(digest)} | ({"from": source} if source else {})
        with self._transport.request(
            "POST",
            f"{self._base}/blobs/uploads/",
            scope=self._mount,
            query=query,
            expect=(201, 202),
            discard=self._abandon,
        ) as response:
            return None if response.status_code == 201 else self._upload(upload_location(response))

    @retried
    def resume_upload(self, location: str) -> BlobUpload:
        """The session that `BlobUpload.location` told, with what the registry has of it; RegistryError 404 if gone."""
        upload = self._upload(location)
        upload.refresh()
        return upload

    @retried
    def delete_blob(self, digest: Digest) -> None:
        """Remove the blob from the repository, if it is there."""
        self._remove(self._blob(digest))

    @retried
    def manifest(self, reference: str | Digest) -> Manifest:
        """The manifest under a tag or digest, verified; RegistryError MANIFEST_UNKNOWN, status 404 if absent."""
        url = self._manifest(reference)
        headers = {"Accept": _ACCEPT}
        try:
            with self._transport.request("GET", url, scope=self._pull, headers=headers) as response:
                body = read_at_most(response, MAX_MANIFEST_BYTES)
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
                announced = response.headers.get("Docker-Content-Digest")
        except RegistryError as error:
            if error.status != 404:
                raise
            message = f"there is no manifest {self.name}:{reference}"
            raise RegistryError(message, code="MANIFEST_UNKNOWN", status=404, reason="NotFound") from error
        digest = _exact(reference) or _announced(announced) or Digest.of(body)
        digest.verify(body)
        return Manifest(media_type, digest, body)

    def find_digest(self, tag: str) -> Digest | None:
        """The digest of the manifest under a tag; None if there is none. Asks once, for those who ask again anyway."""
        headers = {"Accept": _ACCEPT}
        url = self._manifest(tag)
        with self._transport.request("HEAD", url, scope=self._pull, headers=headers, expect=(200, 404)) as response:
            if response.status_code == 404:
                return None
            announced = _announced(response.headers.get("Docker-Content-Digest"))
        return announced or self.manifest(tag).digest

    @retried
    def put_manifest(self, reference: str | Digest, body: bytes, media_type: str) -> Digest:
        """Store a manifest under a tag, or under its digest; returns the digest. Idempotent."""
        url = self._manifest(reference)
        headers = {"Content-Type": media_type}
        with self._transport.request(
            "PUT", url, scope=self._push, headers=headers, body=body, expect=(201,)
        ) as response:
            digest = _announced(response.headers.get("Docker-Content-Digest"))
        digest = digest or _exact(reference) or Digest.of(body)
        digest.verify(body)
        return digest

    @retried
    def delete_manifest(self, digest: Digest) -> None:
        """Remove the manifest, and with it the tags that name it, if it is there."""
        self._remove(self._manifest(digest))

    def tags(self) -> list[str]:
        """All tags in the registry's order; none for an unknown repository."""
        try:
            return list(listing(self._transport, f"{self._base}/tags/list?n=1000", "tags", scope=self._pull))
        except RegistryError as error:
            if error.status == 404:
                return []
            raise

    def _pieces(self, digest: Digest, offset_bytes: int, length_bytes: int | None) -> Iterator[bytes]:
        end = None if length_bytes is None else offset_bytes + length_bytes
        headers = {}
        if offset_bytes or end is not None:
            headers["Range"] = f"bytes={offset_bytes}-{'' if end is None else end - 1}"
        with self._transport.request(
            "GET", self._blob(digest), scope=self._pull, headers=headers, expect=(200, 206, 416)
        ) as response:
            if response.status_code == 416:
                return  # nothing at or after the offset
            # A registry may ignore the range and send everything: 200.
            position = offset_bytes if response.status_code == 206 else 0
            for piece in response.iter_content(PIECE_BYTES):
                wanted = piece[max(0, offset_bytes - position) : None if end is None else max(0, end - position)]
                position += len(piece)
                if wanted:
                    yield wanted
                if end is not None and position >= end:
                    return

    def _upload(self, location: str) -> BlobUpload:
        return BlobUpload(self._transport, self._push, self._blob, location, 0)

    def _abandon(self, begun: requests.Response) -> None:
        """The session, if any, that began when nobody wanted it any more."""
        with begun:
            if begun.status_code == 202 and "Location" in begun.headers:
                self._upload(upload_location(begun)).abandon()

    def _remove(self, url: str) -> None:
        with self._transport.request("DELETE", url, scope=self._delete, expect=(200, 202, 204, 404)):
            pass

    def _blob(self, digest: Digest) -> str:
        return f"{self._base}/blobs/{digest}"

    def _manifest(self, reference: str | Digest) -> str:
        if _exact(reference) is None and not _TAG.fullmatch(str(reference)):
            raise ValueError(f"{reference!r} is no tag: letters, digits and . _ -, at most 128")
        return f"{self._base}/manifests/{reference}"


def listing(transport: Transport, url: str, key: str, *, scope: str) -> Iterator[str]:
    """The names under `key` of a paged listing, following `Link: <...>; rel="next"`."""
    seen: set[str] = set()
    following: str | None = url
    while following is not None and following not in seen:
        seen.add(following)
        names, following = _page(transport, following, key, scope)
        yield from names


def _page(transport: Transport, url: str, key: str, scope: str) -> tuple[list[str], str | None]:
    page, following = transport.retry.run(lambda: transport.json(url, scope=scope))
    names = page.get(key) or [] if isinstance(page, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RegistryError(f"GET {url}: the answer is no list of {key}; is this a registry?", retryable=False)
    return names, following


def _mismatch(digest: Digest, what: str) -> IntegrityError:
    return IntegrityError(f"expected {digest}, {what}", reason="DigestMismatch")


def _exact(reference: str | Digest) -> Digest | None:
    return reference if isinstance(reference, Digest) else Digest.parse(reference) if ":" in reference else None


def _announced(header: str | None) -> Digest | None:
    try:
        return Digest.parse(header) if header else None
    except InvalidDigestError:
        return None  # an algorithm that we do not know: the digest is computed instead
