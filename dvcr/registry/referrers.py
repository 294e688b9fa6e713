"""Referrers: manifests that name another one as their subject (distribution-spec, "Listing Referrers")."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import structlog

from dvcr.descriptor import Descriptor
from dvcr.digest import Digest
from dvcr.errors import NotFoundError
from dvcr.storage import paths
from dvcr.storage.driver import StorageDriver

log = structlog.get_logger(__name__)


class Referrers:
    """Who refers to what, in every repository."""

    def __init__(self, storage: StorageDriver) -> None:
        self._storage = storage

    def add(self, repository: str, subject: Digest, referrer: Descriptor) -> None:
        """List `referrer` under `subject`, which need not exist."""
        value = json.dumps(referrer.to_json()).encode()
        self._storage.write(paths.referrer(repository, subject, referrer.digest), value)

    def repair(self, repository: str, subject: Digest, referrer: Descriptor) -> bool:
        """List it if its entry is missing or says something else, and tell whether that was so."""
        key = paths.referrer(repository, subject, referrer.digest)
        with suppress(NotFoundError, ValueError):
            if json.loads(self._storage.read(key)) == referrer.to_json():
                return False
        self.add(repository, subject, referrer)
        return True

    def remove(self, repository: str, subject: Digest, digest: Digest) -> None:
        """List it no more. Idempotent."""
        self._storage.delete(paths.referrer(repository, subject, digest))

    def of(
        self, repository: str, subject: Digest, artifact_type: str | None = None, after: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Descriptors of the manifests that refer to `subject`, by digest; of one artifact type, if given.

        Only those whose digest sorts after `after`. Each is read when it is asked for. Includes those of an index under
        the fallback tag, which clients of registries without this API maintain.
        """
        listed = {item["digest"]: item for item in self._fallback(repository, subject)}
        keys = {str(paths.last_digest(key)): key for key in self._storage.list(paths.referrers(repository, subject))}
        for digest in sorted(keys.keys() | listed.keys()):
            if digest > after:
                item = self._entry(repository, keys[digest]) if digest in keys else None
                item = item or listed.get(digest)
                if item and artifact_type in (None, item.get("artifactType")):
                    yield item

    def _entry(self, repository: str, key: str) -> dict[str, Any] | None:
        try:
            self._storage.stat(paths.manifest(repository, paths.last_digest(key)))
            entry: dict[str, Any] = json.loads(self._storage.read(key))
        except NotFoundError:
            return None  # its manifest was deleted, or never came
        except ValueError:
            log.warning("referrer cannot be read; dvcr scrub writes it anew", key=key)
            return None
        return entry

    def _fallback(self, repository: str, subject: Digest) -> list[dict[str, Any]]:
        tag = f"{subject.algorithm}-{subject.hex[:64]}"  # distribution-spec, "Referrers Tag Schema"
        try:
            digest = Digest.parse(self._storage.read(paths.tag(repository, tag)).decode())
            items = json.loads(self._storage.read(paths.manifest(repository, digest)).partition(b"\n")[2]).get(
                "manifests"
            )
        except NotFoundError:
            return []
        except ValueError:
            log.warning("fallback tag of referrers cannot be read", repository=repository, tag=tag)
            return []
        return (
            [item for item in items if isinstance(item, dict) and isinstance(item.get("digest"), str)] if items else []
        )
