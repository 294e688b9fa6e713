"""`dvcr image upload`'s sending against the real uploader: cut, killed, busy, with TLS."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from controller.uploads.address import HttpAddress
from controller.uploads.file import LocalFile
from controller.uploads.sending import Sender, UploadError
from dvcr.jobs.job import UploadState, UploadTicket
from tests.integration.test_uploader import _UPLOADER, CONTENT, MIB, Uploads, begun, file, uploads
from tests.support.certificates import self_signed
from tests.support.cutting_proxy import cutting_proxy
from tests.support.waiting import eventually

__all__ = ["file", "uploads"]


def nothing(*_: object) -> None:
    """Is told, and does nothing."""


def send(
    url: str,
    path: Path,
    *,
    read: Callable[[int], None] = nothing,
    waiting: Callable[[str, float], None] = nothing,
    sleep: Callable[[float], None] = time.sleep,
    ca_file: Path | None = None,
) -> None:
    """Send the file; `read` is told up to where it was read."""
    with LocalFile.open(path) as local, closing(HttpAddress(url, local, read, ca_file)) as address:
        Sender(
            address,
            local.total_bytes,
            wanted=lambda: True,
            progress=nothing,
            waiting=waiting,
            patience_s=60,
            sleep=sleep,
        ).send()


def promised(uploads: Uploads) -> UploadTicket:
    return uploads.ticket(checksums={"sha256": hashlib.sha256(CONTENT).hexdigest()})


def test_a_file_is_sent_and_found_complete_afterwards(uploads: Uploads, file: Path) -> None:
    ticket = promised(uploads)
    send(uploads.address(ticket), file)
    uploads.complete(ticket)
    assert uploads.told(ticket).verified, "the uploader saw every byte in order"
    send(uploads.address(ticket), file)


def test_it_goes_on_after_a_reset_in_the_middle_of_a_body(uploads: Uploads, file: Path) -> None:
    ticket, waits, read = promised(uploads), list[str](), list[int]()
    server = urlsplit(uploads.url)
    with cutting_proxy(str(server.hostname), server.port or 0, after_bytes=8 * MIB) as proxy:
        send(f"{proxy}/upload/{ticket.token}", file, read=read.append, waiting=lambda why, _: waits.append(why))
    assert "was cut" in waits[0]
    again = next(now for before, now in pairwise(read) if now <= before)
    assert again > 3 * MIB, "what had arrived was not sent again"
    uploads.complete(ticket)


def test_it_goes_on_after_kill_9_of_the_uploader_in_the_middle_of_a_body(uploads: Uploads, file: Path) -> None:
    ticket, waits = promised(uploads), list[str]()

    def kill_once(offset_bytes: int) -> None:
        if offset_bytes >= 7 * MIB and not waits:
            eventually(lambda: uploads.told(ticket).received_bytes > 2 * MIB, "the uploader has taken some of the body")
            uploads.kill()

    def start_again(why: str, _: float) -> None:
        if not waits:
            uploads.start_with(DVCR__UPLOADER__PORT=str(urlsplit(uploads.url).port))
        waits.append(why)

    send(uploads.address(ticket), file, read=kill_once, waiting=start_again)
    assert "was cut" in waits[0]
    uploads.complete(ticket)
    assert uploads.sessions() == []


@pytest.mark.parametrize("limit", ["MAX_CLIENT_UPLOADS", "MAX_UPLOADS"])
def test_it_waits_while_the_uploader_has_enough_to_do(uploads: Uploads, file: Path, limit: str) -> None:
    uploads.stop()
    uploads.start_with(**{f"DVCR__UPLOADER__{limit}": "1"})
    other, ticket = uploads.ticket(), promised(uploads)
    connection, waits = begun(uploads, other), list[tuple[str, float]]()

    def end_the_other(_: float) -> None:
        connection.close()
        eventually(lambda: uploads.told(other).state is UploadState.WAITING, "the other upload has ended")

    send(uploads.address(ticket), file, waiting=lambda *told: waits.append(told), sleep=end_the_other)
    [(why, wait_s)] = waits
    assert ("under way already" in why, wait_s) == (True, 5), "as Retry-After says"
    uploads.complete(ticket)


def test_what_is_refused_ends_it_with_the_servers_words(uploads: Uploads, tmp_path: Path) -> None:
    pdf = tmp_path / "report.iso"
    pdf.write_bytes(b"%PDF-1.7\n" + bytes(5 * MIB))
    ticket = uploads.ticket()
    with pytest.raises(UploadError, match="a PDF document") as caught:
        send(uploads.address(ticket), pdf)
    assert caught.value.status == 422
    with pytest.raises(UploadError, match="a PDF document") as caught:
        send(uploads.address(ticket), pdf)
    assert caught.value.status == 410
    late = uploads.ticket(expires_in_s=-1)
    with pytest.raises(UploadError, match="had to begin before") as caught:
        send(uploads.address(late), pdf)
    assert caught.value.status == 410


def test_a_file_that_is_too_large_and_one_that_is_another(uploads: Uploads, file: Path, tmp_path: Path) -> None:
    uploads.stop()
    uploads.start_with(DVCR__UPLOADER__MAX_SIZE_BYTES=str(len(CONTENT)))
    larger = tmp_path / "larger.raw"
    larger.write_bytes(CONTENT + bytes(512))
    with pytest.raises(UploadError, match="is larger than") as caught:
        send(uploads.address(uploads.ticket()), larger)
    assert caught.value.status == 413
    ticket = uploads.ticket()
    begun(uploads, ticket).close()
    eventually(lambda: uploads.told(ticket).state is UploadState.WAITING, "the ticket is free again")
    shorter = tmp_path / "shorter.raw"
    shorter.write_bytes(CONTENT[: 9 * MIB])
    with pytest.raises(UploadError, match="begun with another file"):
        send(uploads.address(ticket), shorter)
    send(uploads.address(ticket), file)
    uploads.complete(ticket)


def test_the_uploaders_certificate_is_checked(uploads: Uploads, file: Path, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    uploads.stop()
    uploads.start_with(DVCR__UPLOADER__TLS__CERTIFICATE_FILE=str(certificate), DVCR__UPLOADER__TLS__KEY_FILE=str(key))
    ticket = promised(uploads)
    url = uploads.address(ticket).replace("127.0.0.1", "localhost")
    assert url.startswith("https://localhost:")
    with pytest.raises(UploadError, match=r"is not trusted.*--ca-file"):
        send(url, file)
    send(url, file, ca_file=certificate)
    uploads.complete(ticket)


def test_a_certificate_that_cannot_be_used_is_told_as_uploader_tls(tmp_path: Path) -> None:
    certificate, _ = self_signed(tmp_path, "localhost")
    settings = {"DVCR__BROKER__URL": "redis://127.0.0.1:1/0", "DVCR__UPLOADER__TLS__CERTIFICATE_FILE": str(certificate)}
    for key_settings in ({}, {"DVCR__UPLOADER__TLS__KEY_FILE": str(certificate)}):
        done = subprocess.run(
            [sys.executable, "-c", _UPLOADER, "uploader"],
            env=os.environ | settings | key_settings,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "uploader.tls: certificate_file" in done.stderr
        assert "registry.tls" not in done.stderr
