"""Every setting of every part, typed and explained in one place.

Order, later wins: the defaults here, a TOML file (``--config`` or ``DVCR_CONFIG``), the environment
(``DVCR__STORAGE__FILESYSTEM__ROOT=/srv/dvcr``: the path to the key, joined by two underscores). A key that is not here
refuses to start, naming the key. Secrets are `SecretStr` and never print.

The module is long because it is one table: every part names its settings here, and nowhere else.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dvcr.errors import ConfigError

ENVIRONMENT_PREFIX = "DVCR__"


def _network(text: str) -> str:
    return str(IPv4Network(text))


Ports = Annotated[str, Field(pattern=r"^(\d{1,5}(-\d{1,5})?(, ?\d{1,5}(-\d{1,5})?)*)?$")]
Network = Annotated[str, AfterValidator(_network)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are written."""
    style: Literal["auto", "json", "console"] = "auto"
    """JSON lines, coloured text, or text only where standard error is a terminal."""


class FilesystemSettings(_Section):
    root: Path = Path("data/registry")
    """Folder that holds all blobs, manifests and upload sessions."""


class S3Settings(_Section):
    bucket: str = ""
    """Bucket that holds all blobs, manifests and upload sessions; it has to exist."""
    prefix: str = ""
    """Beginning of every object's name, for a bucket that is shared with others."""
    endpoint_url: str = Field("", pattern=r"^(https?://.+)?$")
    """Address of an S3 server; empty for Amazon's."""
    region: str = "us-east-1"
    """Region of the bucket."""
    path_style: bool = False
    """Name the bucket in the path instead of the host name, as most servers other than Amazon's want it."""
    ca_file: Path | None = None
    """PEM file with the certificate authorities to trust for the endpoint, instead of the system's."""
    access_key_id: SecretStr = SecretStr("")
    """Access key; empty for the usual AWS sources (environment, profile, the machine's role)."""
    secret_access_key: SecretStr = SecretStr("")
    """Secret of the access key."""
    timeout_s: float = Field(60, gt=0)
    """Longest silence of the server in one request."""
    attempts: int = Field(5, gt=0)
    """How often one request is sent before it counts as failed."""
    upload_buffer_bytes: int = Field(16 * 2**20, gt=0)
    """Bytes of large uploads that one server process has on their way to the bucket at the same time."""
    redirect: bool = False
    """Answer pulls of blobs with a redirect to a signed address of the bucket: clients must reach it, and check the
    digest themselves."""
    redirect_expiry_s: float = Field(900, gt=0, le=7 * 24 * 3600)
    """How long such an address works."""


class StorageSettings(_Section):
    driver: Literal["filesystem", "s3"] = "filesystem"
    """Where the registry keeps its bytes."""
    filesystem: FilesystemSettings = FilesystemSettings()
    s3: S3Settings = S3Settings()

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        s3 = self.s3
        if self.driver == "s3" and not s3.bucket:
            raise ValueError("storage.driver is s3, and storage.s3.bucket is empty")
        if self.driver != "s3" and s3.bucket:
            raise ValueError(f"storage.s3.bucket is {s3.bucket!r}, and storage.driver is not s3")
        if bool(s3.access_key_id.get_secret_value()) != bool(s3.secret_access_key.get_secret_value()):
            raise ValueError("storage.s3.access_key_id and storage.s3.secret_access_key need each other")
        if s3.ca_file and s3.endpoint_url.startswith("http://"):
            raise ValueError("storage.s3.ca_file is set, and storage.s3.endpoint_url is not https")
        return self


class TlsSettings(_Section):
    certificate_file: Path | None = None
    """PEM file with the server's certificate and its chain; without one it speaks plain HTTP."""
    key_file: Path | None = None
    """PEM file with the certificate's key. All three files are read again when they change."""
    client_ca_file: Path | None = None
    """PEM file with the authorities whose client certificates name users; without one no certificate is asked for."""
    client_certificates: Literal["optional", "required"] = "optional"
    """Whether a client without a certificate may still show a password or token."""


class RegistrySettings(_Section):
    host: str = "127.0.0.1"
    """Address that `dvcr serve` listens on. Elsewhere than on loopback it wants to know who may do what: `access`."""
    port: int = Field(5000, ge=0, le=65535)
    """Port that `dvcr serve` listens on; 0 picks a free one."""
    workers: int = Field(1, gt=0)
    """Server processes that share the port; limits and memory count for each."""
    tls: TlsSettings = TlsSettings()
    quotas: dict[str, Annotated[int, Field(gt=0)]] = {}
    """Most bytes by prefix of repository names (`team/`); the empty prefix is the whole store. See access.md."""
    max_client_requests: int = Field(256, gt=0)
    """Requests of one address at the same time; more are answered 429. A proxy's clients count as one."""
    drain_delay_s: float = Field(0, ge=0)
    """Time after SIGTERM during which `/readyz` fails and everything else is served, for load balancers to notice."""
    drain_timeout_s: float = Field(30, ge=0)
    """Time that requests under way then have to finish."""
    max_manifest_bytes: int = Field(4 * 2**20, gt=0)
    """Largest manifest that is accepted; the spec asks for at least 4 MiB."""
    sparse_images: bool = False
    """Accept image manifests whose config or layers are missing, for mirrors that hold images in part."""
    min_chunk_bytes: int = Field(0, ge=0)
    """Size that clients which push in chunks are asked to give each but the last (OCI-Chunk-Min-Length); smaller ones
    are taken too, and cost a request each. 0 asks for nothing."""
    verify_interval_s: float = Field(3600, ge=0)
    """A blob that this server found whole is not hashed again when it is pulled, for this long and while its file
    does not change; 0 hashes it at every pull."""
    upload_idle_timeout_s: float = Field(120, gt=0)
    """A request body that brings no byte for this long is given up; its upload session stays resumable."""
    download_idle_timeout_s: float = Field(120, gt=0)
    """A client that takes no byte of a blob for this long is cut off."""
    upload_expiry_s: float = Field(24 * 3600, gt=0)
    """An upload session that was not used for this long is removed."""
    collect_interval_s: float = Field(3600, gt=0)
    """Time between two runs of garbage collection."""
    collect_grace_s: float = Field(3600, ge=0)
    """Unreferenced blobs are kept for this long: time for a push to send the manifest that refers to them."""


class RuleSettings(_Section):
    repositories: tuple[str, ...] = Field(min_length=1)
    """Globs of names: `*` is anything but `/`, `**` is anything."""
    actions: tuple[Literal["pull", "push", "delete"], ...] = Field(min_length=1)
    """What the rule grants."""
    users: tuple[str, ...] = ()
    """To whom: users, `@groups`, or `*` for everyone who has shown who they are."""
    anonymous: bool = False
    """Also to everybody else."""


class IssuerSettings(_Section):
    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    """Its users and groups are `NAME:SUBJECT` and `@NAME:GROUP` in rules."""
    issuer: str = Field(min_length=1)
    """The `iss` of its tokens."""
    audience: str = Field(min_length=1)
    """The `aud` that its tokens must have: this registry."""
    jwks: str = Field(min_length=1)
    """Address or file of its public keys (JSON Web Key Set)."""
    groups_claim: str = ""
    """Claim with the list of the user's groups, if there is one."""


class AccessSettings(_Section):
    anonymous: Literal["none", "full"] = "none"
    """`full`: everybody may do everything, wherever the registry listens. On loopback it is so if nothing is set."""
    htpasswd_file: Path | None = None
    """Users and bcrypt hashes, as `htpasswd -B` or `dvcr access password` writes them; read again when it changes."""
    rules: tuple[RuleSettings, ...] = ()
    """Who may do what, see access.md. Without any, whoever has shown who they are may do everything."""
    groups: dict[str, tuple[str, ...]] = {}
    """Users by group."""
    admins: tuple[str, ...] = ()
    """Users and `@groups` who may collect garbage over HTTP and see the names of all repositories."""
    issuers: tuple[IssuerSettings, ...] = ()
    """Identity providers whose tokens are accepted."""
    service: str = Field("dvcr", pattern=r"^[A-Za-z0-9._:/-]{1,255}$")
    """Name of this registry in its tokens; servers of one registry share it."""
    external_url: str = Field("", pattern=r"^(https?://[A-Za-z0-9._:\[\]-]+)?$")
    """Where all clients get their tokens, for proxies that change the host; empty: where each reached the registry."""
    token_key_dir: Path = Path("data/token-keys")
    """Folder of the keys that sign tokens; servers of one registry share it. The first key is made at first start."""
    token_life_s: int = Field(300, ge=10, le=3600)
    """Life of a token. Whoever loses a password keeps a token's rights for so long at most."""
    pull_token_life_s: int = Field(3600, ge=10, le=86400)
    """Longest life of a token that is for nothing but pull, where it is asked for (`expires_in`), as controllers do for
    machines: they renew it after half of it. Others live `token_life_s` at most."""


class ClientSettings(_Section):
    url: str = "http://127.0.0.1:5000"
    """The registry that importer, controller, launcher and `dvcr image` talk to."""
    username: str = ""
    """User for the registry; empty for none."""
    password: SecretStr = SecretStr("")
    """Password for the registry."""
    credentials_file: Path | None = None
    """JSON file with `username` and `password`, or with a token as `registrytoken`, in place of the two settings above;
    read again whenever they are needed. Pods that the controller makes have one."""
    ca_file: Path | None = None
    """PEM file with the certificate authorities to trust for the registry, instead of the system's."""
    ca_pem: str = Field("", pattern=r"^$|-----BEGIN CERTIFICATE-----")
    """The same, the certificates themselves: so the pods of machines get what `ca_file` of the controller holds."""
    timeout_s: float = Field(60, gt=0)
    """Longest silence of the registry in one request."""

    @model_validator(mode="after")
    def _one_authority(self) -> Self:
        if self.ca_file is not None and self.ca_pem:
            raise ValueError("client.ca_file and client.ca_pem say the same; set one of them")
        return self

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.credentials_file is not None and (self.username or self.password):
            raise ValueError("client.credentials_file takes the place of client.username and client.password")
        return self


class BrokerSettings(_Section):
    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Redis: Celery's broker, and where the progress of jobs is kept."""
    visibility_timeout_s: int = Field(60, gt=0)
    """Celery's message is delivered again after this time. Messages only wake workers, the lease decides who runs what:
    an import may take longer."""


class ImporterSettings(_Section):
    scratch_dir: Path = Path("data/scratch")
    """Folder for bytes of a source that are still needed; emptied by each import when it ends."""
    max_virtual_size_bytes: int = Field(2 * 2**40, gt=0)
    """Largest virtual disk that is accepted."""
    max_source_bytes: int = Field(3 * 2**40, gt=0)
    """Most bytes that are fetched of one source: room for the largest virtual disk, and for what its format adds."""
    max_unpacked_bytes: int = Field(2 * 2**40, gt=0)
    """Most bytes that a compressed file (gz, xz, zst, bz2) may unpack to."""
    max_unpacking_ratio: int = Field(10_000, gt=0)
    """Most bytes that each byte of a compressed file may unpack to, beyond the first 256 MiB."""
    concurrency: int = Field(2, gt=0)
    """Imports that one worker runs at the same time."""
    idle_timeout_s: float = Field(60, gt=0)
    """A source that sends no byte for this long is asked again, from where it stopped."""
    slow_timeout_s: float = Field(600, gt=0)
    """An HTTP source that brings less than 10 KiB/s on average for this long fails, and is tried again later."""
    retries: int = Field(5, ge=0)
    """Consecutive attempts without a new byte before an import fails."""
    lease_s: float = Field(15, gt=0)
    """A job whose worker did not renew its lease for this long is taken over by another worker."""
    max_crashes: int = Field(3, gt=0)
    """An import whose worker died this often without a word is not tried again."""
    attempts: int = Field(6, gt=0)
    """Attempts at an import whose cause of failure may go away, before it fails."""
    retry_wait_s: float = Field(5, gt=0)
    """Wait before the second attempt; it doubles before each further one, up to five minutes."""
    source_addresses: Literal["public", "private", "any"] = "private"
    """Where sources may be fetched from: `public` addresses; `private` networks too; or `any`, also loopback,
    link-local, multicast and the metadata services of clouds. `dvcr up` and `dvcr image import` use
    `any`: see security.md."""
    redirect_to_http: bool = False
    """Follow redirects from https:// to http://."""
    connections: int = Field(4, gt=0, le=16)
    """Connections over which one file is fetched, where the server allows it and it is faster than over one."""
    resume_keep_s: float = Field(6 * 3600, ge=0)
    """What a killed worker, or an attempt that failed, had fetched is kept in `scratch_dir` for this long, for the next
    delivery of its job."""
    recall_chunks_s: int = Field(7 * 24 * 3600, ge=0)
    """The broker's Redis remembers for this long which blob holds a chunk, so that a chunk that was imported before is
    neither compressed nor sent again: about 250 bytes for each. 0 remembers nothing."""
    plain_http_registries: tuple[str, ...] = ()
    """Registries (HOST or HOST:PORT) of ContainerImage sources that are spoken to without TLS."""
    platform: str = Field("", pattern=r"^([a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?)?$")
    """Platform (`linux/amd64`) that is taken of images for several; empty for the worker's own."""


class UploaderSettings(_Section):
    host: str = "127.0.0.1"
    """Address that `dvcr uploader` listens on."""
    port: int = Field(5001, ge=0, le=65535)
    """Port that `dvcr uploader` listens on; 0 picks a free one."""
    external_url: str = "http://127.0.0.1:5001"
    """How users reach the uploader; upload commands begin with it."""
    in_cluster_url: str = "http://127.0.0.1:5001"
    """How pods reach the uploader."""
    first_byte_timeout_s: float = Field(900, gt=0)
    """An upload that does not begin within this time fails."""
    idle_timeout_s: float = Field(120, gt=0)
    """An upload that brings no byte for this long is cut; it can go on where it stopped."""
    resume_timeout_s: float = Field(1800, gt=0)
    """An upload that was cut and does not go on within this time fails."""
    max_size_bytes: int = Field(2 * 2**40, gt=0)
    """Largest file that is accepted."""
    max_uploads: int = Field(32, gt=0)
    """Files that one process receives at the same time; more are answered 503 and may try again."""
    max_client_uploads: int = Field(8, gt=0)
    """Of these, from one address; more are answered 429. A proxy's clients count as one."""
    drain_timeout_s: float = Field(10, ge=0)
    """Time after SIGTERM to make safe what has arrived; clients are told to go on elsewhere."""
    allowed_origins: tuple[str, ...] = ("*",)
    """Web pages (`https://host`) whose scripts may upload; `*` for any. The address itself is the secret."""
    tls: TlsSettings = TlsSettings()


class MachineApiSettings(_Section):
    host: str = "127.0.0.1"
    """Address that the controller serves consoles of machines on, to the cluster's API server."""
    port: int = Field(0, ge=0, le=65535)
    """Port of that server; 0 picks a free one."""
    service: str = "dvcr-controller"
    """Name of the Service, in the controller's namespace, by which the API server reaches it."""
    external_name: str = ""
    """Host of this process, where the controller is to make that Service and the APIService itself; empty where both
    are installed already."""


class WebhookSettings(_Section):
    enabled: bool = False
    """Check objects that are created or changed, and turn evictions of machines' pods into moves, for an API server
    that is not the embedded one, which does both itself."""
    host: str = "127.0.0.1"
    """Address that the controller serves the cluster's API server on."""
    port: int = Field(0, ge=0, le=65535)
    """Port of that server; 0 picks a free one."""
    service: str = "dvcr-controller"
    """Name of the Service, in the controller's namespace, by which the API server reaches it."""
    external_name: str = ""
    """Host of this process, where the controller is to make the ValidatingWebhookConfiguration `dvcr` itself; empty
    where it is installed already, and only the certificate's authority is to be filled in."""


class ControllerSettings(_Section):
    kubeconfig: Path | None = None
    """Kubeconfig of the cluster; without one the in-cluster configuration, then ~/.kube/config."""
    namespace: str = "default"
    """Namespace of the controller's own objects: its Lease, and the Secret of the machines' certificate authority."""
    workers: int = Field(4, gt=0)
    """Objects of one kind that are reconciled at the same time."""
    resync_s: float = Field(300, gt=0)
    """Every object is looked at again at least this often."""
    image_check_s: float = Field(60, gt=0)
    """An image is looked for in the registry again at least this often, each at a time of its own: one that is gone
    becomes ImageLost within this time and ten seconds, and Ready again within them when it is back."""
    retry_failed_s: float = Field(600, gt=0)
    """An import that failed for a cause that may go away is started anew after this time."""
    operation_ttl_s: float = Field(86400, ge=0)
    """A VirtualMachineOperation that has ended is removed after this time."""
    launcher_command: tuple[str, ...] = ("dvcr-launcher",)
    """Command of the container in a virtual machine's pod."""
    launcher_image: str = "dvcr"
    """Container image of a virtual machine's pod."""
    node_cache_dir: Path | None = None
    """Folder of every node where its machines' pods keep the chunks that they pulled, so that each is pulled once; it
    is mounted from the host, and user 107 must be able to write to it. Without one, every pod keeps its own. The
    embedded cluster has `launcher.cache_dir`."""
    kvm_resource: str = Field("", pattern=r"^([^/\s]+/[^/\s]+)?$")
    """Resource that a machine's pod asks for one of, so that a device plugin of the cluster gives it /dev/kvm, such as
    `squat.ai/kvm`. Without one, pods have it only where the container runtime gives it to every pod."""
    default_storage_class: str = ""
    """Storage class of disks that name none; empty for the cluster's default."""
    machine_api: MachineApiSettings = MachineApiSettings()
    webhooks: WebhookSettings = WebhookSettings()
    machine_cidrs: tuple[Network, ...] = ()
    """Networks that VirtualMachineIPAddressClaims get their addresses from. Without one, a machine has the address that
    its pod happens to get. `dvcr up` sets a loopback range."""
    address_annotations: dict[str, str] = {
        "cni.projectcalico.org/ipAddrs": '["{address}"]',
        "ovn.kubernetes.io/ip_address": "{address}",
        "ipam.antrea.io/pod-ips": "{address}",
    }
    """Annotations of a machine's pod by which the cluster's network plugin gives it the leased address: those of
    Calico, Kube-OVN and Antrea. Cilium has none."""


class MonitoringSettings(_Section):
    host: str = "127.0.0.1"
    """Address of `/healthz`, `/readyz` and `/metrics` of `dvcr worker` and `dvcr controller`; the registry and the
    uploader have them where they listen."""
    port: int | None = Field(None, ge=0, le=65535)
    """Port of these; without one there are none."""


class MigrationSettings(_Section):
    bandwidth_bytes: int = Field(0, ge=0)
    """Most bytes per second that a machine's memory is sent with when it moves to another node; 0: no limit."""
    downtime_ms: int = Field(300, gt=0)
    """How long a guest may stand still at the end of a move, as far as that can be foreseen."""
    progress_timeout_s: float = Field(150, gt=0)
    """A move ends, and the machine stays, when no less is left to send for this long."""
    start_timeout_s: float = Field(300, gt=0)
    """A move ends when no other node has taken a pod for the machine, and started it, within this time."""
    per_node: int = Field(2, gt=0)
    """Machines that leave one node at the same time; others wait for their turn."""
    total: int = Field(5, gt=0)
    """Machines that move at the same time in the whole cluster."""


class ClusterSettings(_Section):
    host: str = "127.0.0.1"
    """Address that the embedded cluster's API listens on."""
    port: int = Field(6443, ge=0, le=65535)
    """Port that the embedded cluster's API listens on; 0 picks a free one."""
    data_dir: Path = Path("data/cluster")
    """Folder of the embedded cluster's database and credentials."""
    kubeconfig: Path = Path("data/kubeconfig")
    """Where the kubeconfig of the embedded cluster is written."""


class NodeSettings(_Section):
    name: str = "local"
    """Name of the Node object that this agent keeps."""
    data_dir: Path = Path("data/node")
    """Folder for pods' files, logs and volumes."""
    shared_volumes_dir: Path | None = None
    """Folder that all nodes see, such as an NFS mount: the storage class `shared`, with which machines can move."""
    pod_cidr: str = "127.64.0.0/16"
    """Loopback range that pods get their addresses from."""


class LauncherSettings(_Section):
    cache_dir: Path = Path("data/cache")
    """Folder where chunks that were pulled for a running machine are kept; shared by the machines of a node. On a
    cluster, `controller.node_cache_dir` says which folder that is."""
    cache_size_bytes: int = Field(4 * 2**30, ge=0)
    """Most bytes that the chunk cache holds."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """KVM where a guest really runs on it, else software emulation; or one of them by force. By `kvm`, a machine's pod
    needs 128 MiB less, in which an emulated processor's translated code is kept."""
    network: Literal["auto", "passt", "user"] = "auto"
    """passt where it is installed and works, else QEMU's user networking, which lets guests reach the launcher's
    loopback address; or one of them by force."""
    guest_tcp_ports: Ports = (
        "1-1023,1433,1521,2049,2379-2380,3000-3010,3128,3306,3389,4000,4200,4443,5000-5010,5060,5432,5601,5671-5672,"
        "5900-5910,5985-5986,6379,6443,8000-8100,8200,8443,8500,8888,9000-9100,9200,9300,9418,10250,11211,15672,25565,"
        "27017"
    )
    """TCP ports of a guest that answer at its machine's address. Each takes 5 KiB of the kernel's memory and a tenth of
    a millisecond of the start."""
    guest_udp_ports: Ports = "53,69,123,161-162,500,514,1194,1701,4500,5060,51820"
    """UDP ports, likewise."""
    guest_denied_networks: tuple[Network, ...] = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16")
    """Networks that guests cannot reach through passt; the name servers of /etc/resolv.conf are always reached."""
    guest_reaches_loopback: bool = False
    """Let guests reach the launcher's loopback address, on one machine the machine's own, as their gateway 10.0.2.2."""
    serial_log_bytes: int = Field(2**20, gt=0)
    """Most bytes that are kept of what a machine writes to its serial console, of its present run and the one before
    each."""
    snapshot_bytes: int = Field(10 * 2**30, ge=2**20)
    """Most bytes of a running machine's disk that are set aside while an image is made of it: what the guest overwrites
    meanwhile. If that is more, there is no image, and the guest goes on."""


class Settings(BaseSettings):
    """All settings. Make one with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    log: LogSettings = LogSettings()
    storage: StorageSettings = StorageSettings()
    registry: RegistrySettings = RegistrySettings()
    access: AccessSettings = AccessSettings()
    client: ClientSettings = ClientSettings()
    broker: BrokerSettings = BrokerSettings()
    importer: ImporterSettings = ImporterSettings()
    uploader: UploaderSettings = UploaderSettings()
    controller: ControllerSettings = ControllerSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    migration: MigrationSettings = MigrationSettings()
    cluster: ClusterSettings = ClusterSettings()
    node: NodeSettings = NodeSettings()
    launcher: LauncherSettings = LauncherSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # init_settings carries the TOML file, so the environment wins over it.
        return env_settings, init_settings


def load_settings(file: Path | None = None) -> Settings:
    """Settings from defaults, `file` (else the one that DVCR_CONFIG names) and the environment.

    Raises ConfigError naming every key that is unknown or wrong.
    """
    file = file or (Path(os.environ["DVCR_CONFIG"]) if os.environ.get("DVCR_CONFIG") else None)
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text())
        except OSError as exc:
            raise ConfigError(f"cannot read the configuration file {file}: {exc.strerror}") from exc
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"{file} is not valid TOML: {exc}") from exc
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**values)
    except ValidationError as exc:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: "
            + ("there is no such setting" if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, "))
            for e in exc.errors(include_input=False)
        )
        raise ConfigError(f"wrong settings: {wrong}") from exc


def as_environment(values: Mapping[str, Any], path: Iterable[str] = ()) -> dict[str, str]:
    """The variables that set the nested `values`, for a child process."""
    prefix = tuple(path)
    out: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(as_environment(value, (*prefix, key)))
        else:
            out[ENVIRONMENT_PREFIX + "__".join((*prefix, key)).upper()] = str(value)
    return out


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    # pydantic-settings ignores variables whose first part is no field: a typing error would go unnoticed.
    for name in environment:
        if name.startswith(ENVIRONMENT_PREFIX):
            section = name[len(ENVIRONMENT_PREFIX) :].split("__")[0].lower()
            if section not in Settings.model_fields:
                raise ConfigError(f"wrong settings: {name}: there is no section {section!r}")
