"""Images in registries: what they hold, and how it is read."""

import json
import platform
import re
from dataclasses import dataclass
from typing import Any, Self

from dvcr.artifact.image import DiskImage
from dvcr.artifact.manifest import ARTIFACT_TYPE
from dvcr.artifact.store import fetch
from dvcr.client.cancellation import Cancellation
from dvcr.client.registry import RegistryClient
from dvcr.client.repository import Manifest, Repository
from dvcr.client.retry import TellRetry
from dvcr.client.transport import Transport
from dvcr.config import ImporterSettings
from dvcr.descriptor import DOCKER_MANIFEST_LIST, IMAGE_INDEX, Descriptor
from dvcr.digest import Digest, InvalidDigestError
from dvcr.errors import RegistryError, SourceError
from dvcr.jobs.job import ContainerOrigin
from importer.logins import DOCKER_HUB, Login, login_in
from importer.sources.addresses import AddressGuard, GuardedAdapter
from importer.sources.request import certificate_file

_DOCKER_HUB_SERVER = "registry-1.docker.io"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_MAX_INDEX_DEPTH = 3
_MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class ContainerReference:
    """An image's name, taken apart as docker does."""

    host: str
    repository: str
    reference: str | Digest

    @classmethod
    def parse(cls, text: str) -> Self:
        """SourceError where it is no name."""
        name, at, digest = text.partition("@")
        host, slash, rest = name.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, rest = DOCKER_HUB, name
        if host in ("index.docker.io", _DOCKER_HUB_SERVER):
            host = DOCKER_HUB
        repository, colon, tag = rest.partition(":")
        if host == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        try:
            reference = Digest.parse(digest) if at else tag if colon else "latest"
        except InvalidDigestError as exc:
            raise SourceError(f"{text!r}: {exc}", reason="InvalidReference") from exc
        if not _HOST.fullmatch(host):
            raise SourceError(f"{text!r}: {host!r} is no registry's HOST[:PORT]", reason="InvalidReference")
        return cls(host, repository, reference)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{'@' if isinstance(self.reference, Digest) else ':'}{self.reference}"


class ContainerImage:
    """An image of a registry, for one platform. Errors of the registry are SourceErrors that tell what to do."""

    def __init__(
        self,
        origin: ContainerOrigin,
        settings: ImporterSettings,
        cancellation: Cancellation,
        on_retry: TellRetry = lambda _: None,
    ) -> None:
        """SourceError where the name, the login or the certificates cannot be used. Nothing is sent yet."""
        self.reference = ContainerReference.parse(origin.image)
        self._platform = settings.platform or _own_platform()
        self._max_layer_bytes = settings.max_unpacked_bytes
        config = origin.docker_config.get_secret_value()
        host, repository = self.reference.host, self.reference.repository
        login = login_in(config, host, repository) if config else Login()
        self._certificates = certificate_file(origin.ca_bundle, settings.scratch_dir) if origin.ca_bundle else None
        scheme = "http" if host in settings.plain_http_registries else "https"
        transport = Transport(
            f"{scheme}://{_DOCKER_HUB_SERVER if host == DOCKER_HUB else host}",
            username=login.username,
            password=login.password,
            ca_file=self._certificates.name if self._certificates else None,
            timeout_s=settings.idle_timeout_s,
            adapter=GuardedAdapter(AddressGuard(settings.source_addresses)),
        )
        self._cancellation = cancellation.child()
        self._on_retry = on_retry
        self.trouble = ""
        """What was tried again last, in words."""
        try:
            self.repository: Repository = RegistryClient(transport).repository(repository)
            self.repository = self.repository.on_behalf_of(self._cancellation, self._note)
        except ValueError as exc:
            raise SourceError(f"{origin.image!r}: {exc}", reason="InvalidReference") from exc

    def manifest(self) -> Manifest:
        """The manifest of the image itself, chosen by platform where there are several."""
        try:
            found = self.repository.manifest(self.reference.reference)
            for _ in range(_MAX_INDEX_DEPTH):
                if found.media_type not in (IMAGE_INDEX, DOCKER_MANIFEST_LIST):
                    return found
                found = self.repository.manifest(self._choose(found))
        except RegistryError as exc:
            raise self.failed(exc) from exc
        raise self._unusable("its index holds indexes of indexes")

    def layers(self, manifest: Manifest) -> list[Descriptor]:
        """The layers, from the lowest up."""
        try:
            layers = [Descriptor.from_json(layer) for layer in json.loads(manifest.body)["layers"]]
        except (ValueError, LookupError, TypeError, RecursionError) as exc:
            raise self._unusable(f"its manifest cannot be read ({exc})") from exc
        if not 0 < len(layers) <= _MAX_LAYERS:
            raise self._unusable(f"it has {len(layers)} layers")
        for layer in layers:
            if layer.size_bytes > self._max_layer_bytes:
                raise self._unusable(
                    f"its layer {layer.digest} has {layer.size_bytes} bytes, over importer.max_unpacked_bytes"
                )
        return layers

    def disk(self, manifest: Manifest) -> DiskImage:
        """The disk of a manifest that `is_disk_artifact`; ImageError where it breaks the format."""
        try:
            return fetch(self.repository, manifest.digest).image
        except RegistryError as exc:
            raise self.failed(exc) from exc

    def failed(self, exc: RegistryError) -> SourceError:
        """What the registry refused, in words for whoever named the image."""
        name = str(self.reference)
        if exc.reason == "RegistryUntrusted":
            message = (
                f"there is no TLS connection to {self.reference.host} that can be trusted; give its authority in "
                "caBundle (--ca-file), or, if it has no TLS, list it in importer.plain_http_registries (--plain-http)"
            )
            return SourceError(message, reason="SourceUntrusted")
        if exc.reason == "RegistryRedirects":
            return SourceError(f"{name} cannot be pulled: {exc.message}", reason="SourceRedirects")
        if exc.status in (401, 403):
            return SourceError(
                f"{self.reference.host} answers {exc.status}: we may not pull {name}, which may be private or not "
                "exist; give credentials that may pull it: imagePullSecret, for the command `docker login`",
                reason="SourceForbidden",
            )
        if exc.status == 404:
            return SourceError(f"there is no image {name}; check name and tag", reason="SourceNotFound")
        advice = ""
        if exc.code == "UNAVAILABLE" and exc.retryable:
            advice = "; a registry without TLS has to be listed in importer.plain_http_registries"
        return SourceError(f"{name} cannot be pulled: {exc.message}{advice}", retryable=exc.retryable)

    def cancel(self) -> None:
        """Let everything that is asked of the registry raise RequestCancelledError, from any thread."""
        self._cancellation.cancel()

    def close(self) -> None:
        """Free what the connection needs."""
        if self._certificates is not None:
            self._certificates.close()

    def _note(self, trouble: str) -> None:
        self.trouble = trouble
        self._on_retry(trouble)

    def _choose(self, index: Manifest) -> Digest:
        """The manifest of an index that is for our platform."""
        try:
            entries = [
                (Descriptor.from_json(entry), _platform_of(entry))
                for entry in json.loads(index.body)["manifests"]
                if _platform_of(entry) != "unknown/unknown"  # attestations about the others
            ]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise self._unusable(f"its index cannot be read ({exc})") from exc
        fitting = [entry for entry, platform in entries if platform in (self._platform, "")]
        # Images of whole machines come in several forms of the same disk; ours is QEMU's.
        fitting = [entry for entry in fitting if entry.annotations.get("disktype", "qemu") == "qemu"]
        exact = [entry for entry, platform in entries if platform == self._platform and entry in fitting]
        candidates = exact or fitting
        if len(candidates) == 1 or (candidates and len({entry.digest for entry in candidates}) == 1):
            return candidates[0].digest
        there = ", ".join(sorted({platform or str(entry.digest) for entry, platform in entries})) or "nothing"
        found = "several images" if candidates else "no image"
        raise self._unusable(
            f"it has {found} for {self._platform}; there is {there}: name one by its digest, or set importer.platform"
        )

    def _unusable(self, why: str) -> SourceError:
        return SourceError(f"{self.reference} is of no use: {why}", reason="InvalidContainerImage")


def is_disk_artifact(manifest: Manifest) -> bool:
    """Whether that is a disk of DVCR, to be copied rather than converted."""
    try:
        kind: object = json.loads(manifest.body).get("artifactType")
    except (ValueError, AttributeError, RecursionError):
        return False
    return kind == ARTIFACT_TYPE


def _platform_of(entry: dict[str, Any]) -> str:
    value = entry.get("platform") or {}
    parts = (value.get("os", ""), value.get("architecture", ""), value.get("variant", ""))
    # arm64's only variant is v8, which some name and some do not.
    return "/".join(part for part in parts if part and not (parts[1] == "arm64" and part == "v8"))


def _own_platform() -> str:
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"
