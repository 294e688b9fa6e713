"""The registry: its parts over one store."""

from collections.abc import Mapping
from datetime import timedelta

from dvcr.registry.blobs import Blobs
from dvcr.registry.catalog import Catalog
from dvcr.registry.collect import Collector
from dvcr.registry.manifests import Manifests
from dvcr.registry.quota import Quotas
from dvcr.registry.referrers import Referrers
from dvcr.registry.scrub import Scrubber
from dvcr.registry.tags import Tags
from dvcr.registry.trust import Trust
from dvcr.registry.uploads import Uploads
from dvcr.registry.verify import Verifier
from dvcr.storage.driver import StorageDriver

# A client that asks for a blob again within this time does not make it any fresher: collection's grace is an hour.
_FRESH_S = 1.0


class Registry:
    """Everything that the HTTP layer and the commands need. Blocking, safe from any thread."""

    def __init__(
        self,
        storage: StorageDriver,
        *,
        grace: timedelta = timedelta(hours=1),
        upload_expiry: timedelta = timedelta(days=1),
        sparse_images: bool = False,
        verify_interval: timedelta = timedelta(hours=1),
        quotas: Mapping[str, int] | None = None,
        trust: Trust | None = None,
    ) -> None:
        """`trust` is what several processes over one store share, if they do."""
        self.storage = storage
        self.catalog = Catalog(storage)
        self.verifier = Verifier(storage, verify_interval, trust or Trust())
        self.quotas = Quotas(storage, self.catalog, quotas or {})
        self.blobs = Blobs(storage, self.catalog, self.verifier, self.quotas, min(_FRESH_S, grace.total_seconds() / 10))
        self.uploads = Uploads(storage, self.blobs, self.verifier, self.quotas)
        self.tags = Tags(storage, self.catalog)
        self.referrers = Referrers(storage)
        self.manifests = Manifests(storage, self.catalog, self.blobs, self.tags, self.referrers, sparse=sparse_images)
        self.scrubber = Scrubber(storage, self.catalog, self.tags, self.referrers)
        self.collector = Collector(storage, self.catalog, self.uploads, grace=grace, expiry=upload_expiry)

    def check(self) -> None:
        """Raise StorageError unless the store takes writes."""
        self.storage.begin_upload().abort()
