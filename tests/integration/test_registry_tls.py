"""TLS of the registry: certificates that change, certificates that name users; and how the server ends."""

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from dvcr.client.registry import RegistryClient
from dvcr.config import ClientSettings
from dvcr.digest import Digest
from tests.support.certificates import client_certificate, self_signed
from tests.support.registry import RegistryServer
from tests.support.waiting import eventually

# The tests' certificates are for nobody in particular.
pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def tls_registry(root: Path, certificate: tuple[Path, Path], **environment: str) -> RegistryServer:
    tls = {
        "DVCR__REGISTRY__TLS__CERTIFICATE_FILE": str(certificate[0]),
        "DVCR__REGISTRY__TLS__KEY_FILE": str(certificate[1]),
    }
    return RegistryServer(root, tls | environment)


def served_certificate(server: RegistryServer) -> str:
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    return ssl.get_server_certificate((address.hostname, address.port))


def test_a_new_certificate_is_served_and_open_connections_stay(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    first = certificate[0].read_text()
    with tls_registry(tmp_path / "registry", certificate) as server:
        assert server.url.startswith("https://")
        address = urlsplit(server.url)
        raw = socket.create_connection((address.hostname, address.port))
        kept = ssl._create_unverified_context().wrap_socket(raw)
        assert served_certificate(server) == first
        other = self_signed(folder(tmp_path, "new"), "127.0.0.1")
        # The key comes later: between the two the old pair is served.
        other[0].rename(certificate[0])
        assert served_certificate(server) == first
        other[1].rename(certificate[1])
        eventually(lambda: served_certificate(server) != first, "the new certificate is served")
        assert served_certificate(server) == certificate[0].read_text()
        kept.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        kept.close()


def test_our_client_pushes_and_pulls_over_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "localhost")
    with tls_registry(tmp_path / "registry", certificate) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        repository = RegistryClient.from_settings(ClientSettings(url=url, ca_file=certificate[0])).repository("a/b")
        data = os.urandom(9 * 2**20)
        assert repository.push_blob(Digest.of(data), data)
        assert repository.read_blob(Digest.of(data)) == data
    with tls_registry(tmp_path / "registry", certificate) as server:
        # This one knows nothing of the blob yet, and hashes it beside the answer.
        url = f"{server.url}/v2/a/b/blobs/{Digest.of(data)}"
        assert requests.get(url, verify=False).content == data
        for begin, end in ((0, 0), (5 * 2**20, 9 * 2**20 - 1)):
            answer = requests.get(url, headers={"Range": f"bytes={begin}-{end}"}, verify=False)
            assert (answer.status_code, answer.content) == (206, data[begin : end + 1])


@pytest.mark.parametrize("policy", ["optional", "required"])
def test_client_certificates_name_users(tmp_path: Path, policy: str) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    ours = self_signed(folder(tmp_path, "clients"), "client authority")
    theirs = self_signed(folder(tmp_path, "strangers"), "client authority")
    rules = [{"repositories": ["robots/**"], "users": ["robot"], "actions": ["pull", "push"]}]
    settings = {
        "DVCR__REGISTRY__TLS__CLIENT_CA_FILE": str(ours[0]),
        "DVCR__REGISTRY__TLS__CLIENT_CERTIFICATES": policy,
        "DVCR__ACCESS__RULES": json.dumps(rules),
        "DVCR__ACCESS__TOKEN_KEY_DIR": str(tmp_path / "keys"),
    }
    robot = client_certificate(folder(tmp_path, "robot"), ours, "robot")
    other = client_certificate(folder(tmp_path, "other"), ours, "other")
    forged = client_certificate(folder(tmp_path, "forged"), theirs, "robot")
    with tls_registry(tmp_path / "registry", certificate, **settings) as server:

        def push(name: str, cert: tuple[Path, Path] | None) -> int:
            uploads = f"{server.url}/v2/{name}/blobs/uploads/"
            files = (str(cert[0]), str(cert[1])) if cert else None
            return requests.post(uploads, verify=False, cert=files).status_code

        assert push("robots/a", robot) == 202
        assert push("others/a", robot) == 403
        assert push("robots/a", other) == 403
        with pytest.raises(requests.exceptions.RequestException):
            push("robots/a", forged)
        if policy == "optional":
            assert push("robots/a", None) == 401
        else:
            with pytest.raises(requests.exceptions.RequestException):
                push("robots/a", None)
        token = requests.get(
            f"{server.url}/token",
            params={"scope": "repository:robots/a:push"},
            verify=False,
            cert=(str(robot[0]), str(robot[1])),
        ).json()
        assert token["scope"] == "repository:robots/a:push"


def test_client_authorities_change_while_it_runs(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    old = self_signed(folder(tmp_path, "old"), "old authority")
    new = self_signed(folder(tmp_path, "new"), "new authority")
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(old[0].read_bytes())
    settings = {
        "DVCR__REGISTRY__TLS__CLIENT_CA_FILE": str(authorities),
        "DVCR__REGISTRY__TLS__CLIENT_CERTIFICATES": "required",
        "DVCR__ACCESS__TOKEN_KEY_DIR": str(tmp_path / "keys"),
    }
    certificates = [client_certificate(folder(tmp_path, f"of-{a[0].parent.name}"), a, "robot") for a in (old, new)]
    with tls_registry(tmp_path / "registry", certificate, **settings) as server:
        address = urlsplit(server.url)

        def are_accepted() -> list[bool]:
            return [is_accepted(*cert) for cert in certificates]

        def is_accepted(certificate_file: Path, key_file: Path) -> bool:
            try:
                answer = requests.get(f"{server.url}/v2/", verify=False, cert=(str(certificate_file), str(key_file)))
            except requests.exceptions.ConnectionError:
                return False
            return answer.status_code == 200

        assert are_accepted() == [True, False]
        context = ssl._create_unverified_context()
        context.load_cert_chain(*certificates[0])
        kept = context.wrap_socket(socket.create_connection((address.hostname, address.port)))
        kept.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        authorities.write_text("no certificate")
        authorities.write_bytes(old[0].read_bytes() + new[0].read_bytes())
        eventually(lambda: are_accepted() == [True, True], "both authorities count")
        authorities.write_bytes(new[0].read_bytes())
        eventually(lambda: are_accepted() == [False, True], "the old authority counts no more")
        kept.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        assert kept.session is not None
        assert not kept.session.has_ticket  # nothing of an earlier connection replaces the certificate
        kept.close()


def test_requests_under_way_are_finished_after_sigterm(tmp_path: Path) -> None:
    data = os.urandom(2**20)
    more = threading.Event()

    def body() -> Iterator[bytes]:
        yield data[:1000]
        more.wait(30)
        yield data[1000:]

    settings = {"DVCR__REGISTRY__DRAIN_DELAY_S": "1"}
    with RegistryServer(tmp_path / "registry", settings) as server:
        answers: list[int] = []

        def push() -> None:
            uploads = f"{server.url}/v2/a/blobs/uploads/"
            query = {"digest": str(Digest.of(data))}
            answers.append(requests.post(uploads, params=query, data=body()).status_code)

        pushing = threading.Thread(target=push)
        pushing.start()
        eventually(
            lambda: "dvcr_registry_uploads_under_way 1.0" in requests.get(f"{server.url}/metrics").text, "the upload"
        )
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: requests.get(f"{server.url}/readyz").status_code == 503, "not ready")
        probe = requests.get(f"{server.url}/healthz")
        assert (probe.status_code, probe.headers["Connection"]) == (200, "close")

        def is_closed() -> bool:
            address = urlsplit(server.url)
            try:
                socket.create_connection((address.hostname, address.port), timeout=1).close()
            except OSError:
                return True
            return False

        eventually(is_closed, "no new connection is taken")
        more.set()
        pushing.join(30)
        assert answers == [201]
        assert server.wait() == 0


def test_a_request_that_never_ends_does_not_keep_the_server(tmp_path: Path) -> None:
    with RegistryServer(tmp_path / "registry", {"DVCR__REGISTRY__DRAIN_TIMEOUT_S": "0.5"}) as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64)
            connection.sendall(b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            eventually(
                lambda: "dvcr_registry_uploads_under_way 1.0" in requests.get(f"{server.url}/metrics").text, "upload"
            )
            assert server.stop() == 0


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, tls: bool) -> None:
    settings = {"DVCR__REGISTRY__DOWNLOAD_IDLE_TIMEOUT_S": "1"}
    certificate = self_signed(tmp_path, "127.0.0.1")
    root = tmp_path / "registry"
    data = os.urandom(32 * 2**20)
    with tls_registry(root, certificate, **settings) if tls else RegistryServer(root, settings) as server:
        uploads = f"{server.url}/v2/a/blobs/uploads/"
        query = {"digest": str(Digest.of(data))}
        assert requests.post(uploads, params=query, data=data, verify=False).status_code == 201
        blob = f"{server.url}/v2/a/blobs/{Digest.of(data)}"
        with requests.get(blob, stream=True, verify=False) as stalled:
            assert len(stalled.raw.read(1000)) == 1000

            def is_given_up() -> bool:
                metrics = requests.get(f"{server.url}/metrics", verify=False).text
                return "dvcr_registry_requests_under_way 1.0" in metrics

            eventually(is_given_up, "the download is given up")
        assert requests.get(blob, verify=False).content == data


def test_a_client_that_takes_no_manifests_is_cut_off(tmp_path: Path) -> None:
    settings = {"DVCR__REGISTRY__DOWNLOAD_IDLE_TIMEOUT_S": "1"}
    with RegistryServer(tmp_path / "registry", settings) as server:
        index = {"schemaVersion": 2, "manifests": [], "annotations": {"filler": "x" * 4_000_000}}
        media_type = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        put = requests.put(f"{server.url}/v2/a/manifests/v1", data=json.dumps(index), headers=media_type)
        assert put.status_code == 201
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port)) as connection:
            # More than the buffers of both ends hold.
            connection.sendall(b"GET /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")

            server_end, client_end = (f":{port:04X}" for port in (address.port or 0, connection.getsockname()[1]))

            def is_dropped() -> bool:
                # The kernel tells this client nothing: it drops the server's end without a word.
                ends = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()]
                return not any(local.endswith(server_end) and remote.endswith(client_end) for local, remote in ends)

            assert not is_dropped()
            eventually(is_dropped, "the server gives up")
