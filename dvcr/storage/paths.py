"""Every key of the registry. Nothing else makes or parses keys; docs/storage-format.md explains them.

    catalog/<repository>                                         empty; the repository exists
    blobs/<algorithm>/<first two hex digits>/<hex>               the bytes of a blob, once for all repositories
    repositories/<repository>/
        blobs/<algorithm>/<hex>                                  empty; the repository has this blob
        manifests/<algorithm>/<hex>                              media type, newline, the manifest's exact bytes
        tags/<tag>                                               digest of the manifest that the tag names
        referrers/<algorithm>/<hex of subject>/<algorithm>/<hex> descriptor (JSON) of a manifest with that subject
        quarantine/<algorithm>/<hex>                         a manifest that is not what its digest says
    quarantine/<algorithm>/<first two hex digits>/<hex>          a blob that is not what its digest says

`<repository>` is the name with ":" for "/": one component, so that no repository lies inside another one's keys.
Names, tags and digests are validated before they come here (`dvcr.registry.names`, `dvcr.digest`).
"""

from dvcr.digest import Digest

CATALOG = "catalog"
BLOBS = "blobs"
QUARANTINE = "quarantine"


def catalog_entry(repository: str) -> str:
    """Marks that the repository exists."""
    return f"{CATALOG}/{_component(repository)}"


def repository_of(catalog_key: str) -> str:
    """The repository whose catalog entry this is."""
    return catalog_key.rpartition("/")[2].replace(":", "/")


def blob(digest: Digest) -> str:
    """The bytes of a blob."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def quarantined_blob(digest: Digest) -> str:
    """The bytes that were found under the key of a blob, and have another digest."""
    return f"{QUARANTINE}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def blob_digest(key: str) -> Digest:
    """The digest of the blob that this key of `BLOBS` or `QUARANTINE` holds."""
    _, algorithm, _, hex_ = key.split("/")
    return Digest(algorithm, hex_)


def blob_links(repository: str) -> str:
    """Prefix of the repository's blob links."""
    return f"repositories/{_component(repository)}/blobs"


def blob_link(repository: str, digest: Digest) -> str:
    """Marks that the repository has the blob."""
    return f"{blob_links(repository)}/{digest.algorithm}/{digest.hex}"


def manifests(repository: str) -> str:
    """Prefix of the repository's manifests."""
    return f"repositories/{_component(repository)}/manifests"


def manifest(repository: str, digest: Digest) -> str:
    """A manifest of the repository."""
    return f"{manifests(repository)}/{digest.algorithm}/{digest.hex}"


def quarantined_manifests(repository: str) -> str:
    """Prefix of the repository's corrupt manifests."""
    return f"repositories/{_component(repository)}/quarantine"


def quarantined_manifest(repository: str, digest: Digest) -> str:
    """The value that was found under the key of a manifest, and has another digest."""
    return f"{quarantined_manifests(repository)}/{digest.algorithm}/{digest.hex}"


def tags(repository: str) -> str:
    """Prefix of the repository's tags."""
    return f"repositories/{_component(repository)}/tags"


def tag(repository: str, tag: str) -> str:
    """A tag of the repository."""
    return f"{tags(repository)}/{tag}"


def all_referrers(repository: str) -> str:
    """Prefix of the referrers of every subject."""
    return f"repositories/{_component(repository)}/referrers"


def referrers(repository: str, subject: Digest) -> str:
    """Prefix of the manifests that name `subject` as theirs."""
    return f"{all_referrers(repository)}/{subject.algorithm}/{subject.hex}"


def referrer(repository: str, subject: Digest, digest: Digest) -> str:
    """One manifest that names `subject` as its subject."""
    return f"{referrers(repository, subject)}/{digest.algorithm}/{digest.hex}"


def last_digest(key: str) -> Digest:
    """The digest that ends the key of a blob link, a manifest (also a quarantined one) or a referrer."""
    algorithm, hex_ = key.rsplit("/", 2)[1:]
    return Digest(algorithm, hex_)


def _component(repository: str) -> str:
    return repository.replace("/", ":")
