"""Which addresses a source may be fetched from: a guard against requests that a user makes us send for them (SSRF).

What is checked is the address that is connected to. Names are resolved once, here, and the connection is made to the
checked result, so that an answer of the DNS that changes in between is of no use; every redirect and every token server
comes through here too, since it is the HTTP adapter that asks.

Through a proxy (HTTP_PROXY, HTTPS_PROXY) the proxy is what is connected to, and it resolves the names: then only
addresses that are written out are checked here, and the rest is the proxy's to refuse.
"""

import ipaddress
import socket
from enum import IntEnum
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from dvcr.errors import SourceError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
# Those that are not link-local anyway: AWS, Google, Alibaba, Azure, Oracle.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)


class Reach(IntEnum):
    """How near an address is; a guard allows everything up to one of them."""

    PUBLIC = 0
    PRIVATE = 1
    LOCAL = 2
    """This machine, its link, a cloud's metadata, or nobody in particular."""


def reach(address: IpAddress) -> Reach:
    """How near `address` is; IPv6 forms that stand for an IPv4 address are as near as that one."""
    if address in _METADATA:
        return Reach.LOCAL
    if isinstance(address, ipaddress.IPv6Address) and (inner := _embedded(address)) is not None:
        return reach(inner)
    if (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or address in _THIS_NETWORK
    ):
        return Reach.LOCAL
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to an IPv4-mapped, -compatible, 6to4, Teredo or NAT64 address end at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    value = int(address)
    if any(address in network for network in _NAT64) or 1 < value < 2**32:
        return ipaddress.IPv4Address(value & 0xFFFFFFFF)
    return None


class AddressGuard:
    """Allows connections up to a reach, as `importer.source_addresses` says."""

    def __init__(self, allowed: str) -> None:
        self._allowed = {"public": Reach.PUBLIC, "private": Reach.PRIVATE, "any": Reach.LOCAL}[allowed]

    def allows(self, address: str) -> bool:
        """Whether that numeric address may be connected to."""
        return reach(ipaddress.ip_address(address.partition("%")[0])) <= self._allowed

    def check_host(self, host: str) -> None:
        """SourceError `SourceAddressRefused` for a refused address, in any spelling, and for this machine's name."""
        name = host.strip("[]").rstrip(".").lower()
        address = _literal(name)
        local = name == "localhost" or name.endswith(".localhost")
        if (local and self._allowed < Reach.LOCAL) or (address is not None and not self.allows(address)):
            raise self._refused(host, address or "this machine")

    def resolve(self, host: str, port: int) -> list[str]:
        """The numeric addresses of `host` that may be connected to, at least one.

        Raises socket.gaierror where there are none, SourceError `SourceAddressRefused` where none is allowed.
        """
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [address for address in addresses if self.allows(address)]
        if not allowed:
            raise self._refused(host, ", ".join(addresses))
        return allowed

    def _refused(self, host: str, address: str) -> SourceError:
        return SourceError(
            f"{host} is at {address}, where sources are not fetched from; "
            "importer.source_addresses decides which addresses are allowed",
            reason="SourceAddressRefused",
        )


class GuardedAdapter(HTTPAdapter):
    """For a session of `requests`: connects only where the guard allows."""

    def __init__(self, guard: AddressGuard, **options: Any) -> None:
        self._guard = guard
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._guard)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self._guard.check_host(urlsplit(str(request.url)).hostname or "")
        return super().send(request, *args, **options)


def _pool_classes(guard: AddressGuard) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, self, super()._new_conn)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, self, super()._new_conn)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _connect(guard: AddressGuard, connection: HTTPConnection, connect: Any) -> socket.socket:
    """urllib3's own `connect`, told numeric addresses in place of the name, which stays the one that TLS proves."""
    name = connection._dns_host
    try:
        addresses = guard.resolve(name, connection.port)
    except socket.gaierror as exc:
        raise NameResolutionError(name, connection, exc) from exc
    try:
        for address in addresses[:-1]:
            connection._dns_host = address
            try:
                made: socket.socket = connect()
            except (ConnectTimeoutError, NewConnectionError):
                continue  # the next address may answer; the last one's error is raised
            return made
        connection._dns_host = addresses[-1]
        last: socket.socket = connect()
        return last
    finally:
        connection._dns_host = name


def _literal(name: str) -> str | None:
    """The address that `name` spells: also 127.1, 0x7f000001 or 2130706433, as C libraries read them."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        try:
            return socket.inet_ntoa(socket.inet_aton(name)) if name else None
        except OSError:
            return None
