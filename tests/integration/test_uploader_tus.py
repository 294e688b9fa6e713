"""The tus protocol, with a client of its own project and by hand."""

import base64
import hashlib
import io

import requests
from tusclient.client import TusClient

from dvcr.jobs.job import UploadState
from tests.integration.test_uploader import CONTENT, MIB, Uploads, uploads

__all__ = ["uploads"]  # the fixture

HEADERS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}


def patch(url: str, offset: int, body: bytes, **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.patch(url, body, headers={**HEADERS, "Upload-Offset": str(offset), **named}, timeout=20)


def test_a_tus_client_uploads_in_chunks_and_goes_on(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    client = TusClient(uploads.address(ticket))
    first = client.uploader(file_stream=io.BytesIO(CONTENT), chunk_size=2 * MIB, upload_checksum=True)
    first.upload(stop_at=6 * MIB)
    assert uploads.told(ticket).offset_bytes == 6 * MIB
    second = client.uploader(file_stream=io.BytesIO(CONTENT), chunk_size=3 * MIB, url=first.url)
    second.upload()
    uploads.complete(ticket)


def test_what_the_server_can_do_is_told_also_to_browsers(uploads: Uploads) -> None:
    asked = {"Origin": "https://console.example.com", "Access-Control-Request-Method": "PATCH"}
    response = requests.options(uploads.address(uploads.ticket()), headers=asked, timeout=10)
    assert response.status_code == 204
    assert response.headers["Tus-Version"] == "1.0.0"
    assert "checksum" in response.headers["Tus-Extension"].split(",")
    assert response.headers["Tus-Max-Size"] == str(2**41)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
    assert "Upload-Offset" in response.headers["Access-Control-Expose-Headers"]


def test_refusals(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    url = uploads.address(ticket)
    wrong_version = requests.post(url, headers={"Tus-Resumable": "0.2.2", "Upload-Length": "5"}, timeout=10)
    assert (wrong_version.status_code, wrong_version.headers["Tus-Version"]) == (412, "1.0.0")
    created = requests.post(url, headers={"Tus-Resumable": "1.0.0", "Upload-Length": "2000000"}, timeout=10)
    assert (created.status_code, created.headers["Location"]) == (201, ticket.token)
    assert "Upload-Expires" in created.headers
    gap = patch(url, 5, b"x")
    assert (gap.status_code, gap.headers["Upload-Offset"]) == (409, "0")
    assert patch(url, 0, b"x", Content_Type="text/plain").status_code == 415
    assert patch(url, 0, bytes(2_000_001)).status_code == 413
    assert patch(url, 0, b"x", Upload_Checksum="crc32 AAAA").status_code == 400
    too_large = {"Tus-Resumable": "1.0.0", "Upload-Length": str(2**42)}
    assert requests.post(url, headers=too_large, timeout=10).status_code == 413


def test_a_body_that_is_not_what_its_checksum_says_is_thrown_away(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    url = uploads.address(ticket)
    piece = CONTENT[:MIB]
    good = base64.b64encode(hashlib.sha256(piece).digest()).decode()
    assert patch(url, 0, piece, Upload_Checksum=f"sha256 {good}", Upload_Length=str(len(CONTENT))).status_code == 204
    assert patch(url, MIB, CONTENT[MIB : 2 * MIB], Upload_Checksum=f"sha256 {good}").status_code == 460
    assert requests.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=10).headers["Upload-Offset"] == str(MIB)
    assert len(uploads.links(ticket)) == 1
    overridden = {**HEADERS, "Upload-Offset": str(MIB), "X-HTTP-Method-Override": "PATCH"}
    assert requests.post(url, CONTENT[MIB:], headers=overridden, timeout=20).status_code == 204
    uploads.complete(ticket)


def test_an_upload_that_is_given_up_leaves_nothing(uploads: Uploads) -> None:
    ticket = uploads.ticket()
    url = uploads.address(ticket)
    assert patch(url, 0, CONTENT[: 2 * MIB]).status_code == 204
    assert requests.delete(url, headers={"Tus-Resumable": "1.0.0"}, timeout=10).status_code == 204
    assert (uploads.told(ticket).state, uploads.told(ticket).reason) == (UploadState.FAILED, "UploadTerminated")
    assert requests.head(url, headers={"Tus-Resumable": "1.0.0"}, timeout=10).status_code == 410
    assert uploads.links(ticket) == []
