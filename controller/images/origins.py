"""From a data source to the origin that a worker can fetch, with the Secrets that it names."""

import base64
import binascii
from collections.abc import Mapping

from pydantic import SecretStr

from controller.api.data_source import ContainerImageSource, DataSource, HttpSource, Named
from controller.api.reference import named_in
from controller.api.resource import SECRET
from controller.images.existing import ExistingImages, NotThere
from controller.runtime.index import Identity
from controller.runtime.port import ClusterPort
from dvcr.errors import ResourceError
from dvcr.jobs.headers import parse_headers
from dvcr.jobs.job import ContainerOrigin, HttpOrigin, ImageOrigin, Origin

_SECRET_AGAIN_S = 5.0
_PULL_SECRET_KEY = ".dockerconfigjson"  # noqa: S105 (the name of a key)


class Origins:
    """Resolves the data sources of one installation. What a source refers to may not be there yet: NotThere."""

    def __init__(self, cluster: ClusterPort, images: ExistingImages) -> None:
        self._cluster = cluster
        self._images = images

    def find(self, source: DataSource, owner: Identity) -> Origin | NotThere:
        """The origin of a source that is fetched or copied; it belongs to `owner`, whose pass is under way."""
        namespace = owner[1][0] or None
        if source.http:
            return self._http(source.http, namespace)
        if source.container_image:
            return self._container(source.container_image, namespace)
        (image,) = named_in(source.write(), namespace or "")
        stored = self._images.find(image, owner)
        if isinstance(stored, NotThere):
            return stored
        return ImageOrigin(repository=stored.repository, digest=str(stored.digest))

    def _http(self, http: HttpSource, namespace: str | None) -> Origin | NotThere:
        pem = base64.b64decode(http.ca_bundle).decode() if http.ca_bundle else ""
        origin = HttpOrigin(url=http.url, ca_bundle=pem, insecure_skip_verify=http.insecure_skip_verify)
        if http.secret_ref is None:
            return origin
        data = self._secret(http.secret_ref, namespace)
        if isinstance(data, NotThere):
            return data
        try:
            headers = parse_headers(data.get("headers", ""))
        except ResourceError as exc:
            return _invalid(http.secret_ref, f"key 'headers': {exc.message}")
        if not headers and not data.get("username"):
            return _invalid(http.secret_ref, "it has neither 'username' and 'password' nor 'headers'")
        return origin.model_copy(
            update={
                "username": data.get("username", ""),
                "password": SecretStr(data.get("password", "")),
                "headers": {name: SecretStr(value) for name, value in headers.items()},
            }
        )

    def _container(self, container: ContainerImageSource, namespace: str | None) -> Origin | NotThere:
        pem = base64.b64decode(container.ca_bundle).decode() if container.ca_bundle else ""
        config = ""
        if container.image_pull_secret is not None:
            data = self._secret(container.image_pull_secret, namespace)
            if isinstance(data, NotThere):
                return data
            config = data.get(_PULL_SECRET_KEY, "")
            if not config:
                return _invalid(container.image_pull_secret, f"it has no key {_PULL_SECRET_KEY!r}")
        return ContainerOrigin(image=container.image, ca_bundle=pem, docker_config=SecretStr(config))

    def _secret(self, reference: Named, namespace: str | None) -> Mapping[str, str] | NotThere:
        """The Secret's data as text."""
        where = _namespace(reference, namespace)
        secret = self._cluster.get(SECRET, reference.name, where)
        if secret is None:
            message = f"waits for Secret {reference.name!r} in namespace {where!r}, which does not exist"
            return NotThere("SecretNotFound", message, _SECRET_AGAIN_S)
        try:
            return {
                key: base64.b64decode(value, validate=True).decode()
                for key, value in (secret.get("data") or {}).items()
            }
        except (binascii.Error, UnicodeDecodeError):
            return _invalid(reference, "its values are no text in UTF-8")


def _namespace(reference: Named, namespace: str | None) -> str | None:
    own: str | None = getattr(reference, "namespace", None)
    return own or namespace


def _invalid(reference: Named, why: str) -> NotThere:
    return NotThere("SecretInvalid", f"Secret {reference.name!r} is of no use: {why}; mend it", _SECRET_AGAIN_S)
