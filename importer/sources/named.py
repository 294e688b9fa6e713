"""Sources as people name them on the command line: https://..., s3://bucket/key, docker://registry/image:tag."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from dvcr.config import ImporterSettings
from dvcr.errors import ConfigError
from dvcr.jobs.headers import parse_headers
from dvcr.jobs.job import ContainerOrigin, HttpOrigin, Origin
from importer.logins import Login, as_config, login_of_user
from importer.sources.container import ContainerReference
from importer.sources.s3 import S3Origin

_KINDS = "http://, https://, s3://BUCKET/KEY or docker://REGISTRY/IMAGE:TAG"


@dataclass(frozen=True)
class SourceOptions:
    """What is said about a source beside its name; each option belongs to some kinds of sources only."""

    ca_bundle: str = ""
    insecure_skip_verify: bool = False
    username: str = ""
    password: str = ""
    headers: tuple[str, ...] = ()
    plain_http: bool = False
    platform: str = ""
    endpoint_url: str = ""

    def only(self, kind: str, *names: str) -> None:
        """ConfigError where an option is given that `kind` has no use for."""
        for name, value in vars(self).items():
            if value and name not in names:
                option = {"ca_bundle": "ca-file", "headers": "header"}.get(name, name.replace("_", "-"))
                raise ConfigError(f"--{option} does not go with {kind} sources")


def origin_of(source: str, options: SourceOptions) -> Origin | S3Origin:
    """The origin that `source` names; ConfigError or SourceError where it is none."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        if Path(source).exists():
            raise ConfigError(f"{source} is a file here; send it with `dvcr image upload {source} --name NAME`")
        raise ConfigError(f"{source!r} names no source; use {_KINDS}")
    match scheme.lower():
        case "http" | "https":
            options.only(scheme, "ca_bundle", "insecure_skip_verify", "username", "password", "headers")
            headers = parse_headers("\n".join(options.headers))
            return HttpOrigin(
                url=source,
                ca_bundle=options.ca_bundle,
                insecure_skip_verify=options.insecure_skip_verify,
                username=options.username,
                password=SecretStr(options.password),
                headers={name: SecretStr(value) for name, value in headers.items()},
            )
        case "s3":
            options.only(scheme, "endpoint_url")
            return S3Origin.parse(source, options.endpoint_url)
        case "docker" | "oci":
            options.only(scheme, "ca_bundle", "username", "password", "plain_http", "platform")
            return _container(rest, options)
    raise ConfigError(f"{scheme}:// is no kind of source; use {_KINDS}")


def settings_for(origin: Origin | S3Origin, options: SourceOptions, settings: ImporterSettings) -> ImporterSettings:
    """The settings for a source that a user names: whoever runs the command may fetch whatever they can reach."""
    own: dict[str, object] = {"source_addresses": "any"}
    if options.platform:
        own["platform"] = options.platform
    if options.plain_http and isinstance(origin, ContainerOrigin):
        host = ContainerReference.parse(origin.image).host
        own["plain_http_registries"] = (*settings.plain_http_registries, host)
    return settings.model_copy(update=own)


def _container(image: str, options: SourceOptions) -> ContainerOrigin:
    reference = ContainerReference.parse(image)
    login = Login(options.username, options.password)
    if not login.username:
        login = login_of_user(reference.host, reference.repository)
    config = as_config(reference.host, login) if login.username else ""
    return ContainerOrigin(image=image, ca_bundle=options.ca_bundle, docker_config=SecretStr(config))
