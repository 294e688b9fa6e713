"""Uploads that take days, and what becomes of them where the registry has lost a part."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from dvcr.artifact.staged import find, read_parts
from dvcr.client.repository import Repository
from dvcr.config import UploaderSettings
from dvcr.digest import Digest
from dvcr.jobs.job import UploadState, UploadTicket
from tests.support.jobs import MemoryJobBoard
from tests.support.memory_registry import MemoryRegistry
from uploader.promises import RememberedPromises
from uploader.ranges import Span
from uploader.receive import Limits, Receiver
from uploader.tickets import Reception, RefusedError

TOKEN = "t" * 32
MIB = 2**20
# A disk, as far as its first sector tells.
CONTENT = bytes(510) + b"\x55\xaa" + random.Random(4).randbytes(5 * MIB - 512)


class Uploading:
    """An upload whose pieces come one by one."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self.repository: Repository = self.registry.client().repository("vmi/a/b")
        self.board = MemoryJobBoard()
        expires_at = datetime.now(UTC) + timedelta(hours=1)
        self.board.open_ticket(UploadTicket(token=TOKEN, repository="vmi/a/b", expires_at=expires_at))

    @property
    def ticket(self) -> UploadTicket:
        ticket = self.board.ticket(TOKEN)
        assert ticket is not None
        return ticket

    def wait(self, time: timedelta) -> None:
        """Make the last use of the parts so much older."""
        ticket = self.ticket
        self.board.update_ticket(ticket.model_copy(update={"refreshed_at": ticket.refreshed_at - time}), "uploader")

    def lose(self, number: int) -> None:
        """Let the registry lose a part."""
        self.repository.delete_blob(self.ticket.parts[number].digest)

    def send(self, start: int, end: int) -> bool:
        """That range of the file; whether it is complete."""
        return asyncio.run(self._send(start, end))

    async def _send(self, start: int, end: int) -> bool:
        loop = asyncio.get_running_loop()
        content = aiohttp.StreamReader(BaseProtocol(loop), len(CONTENT), loop=loop)
        content.feed_data(CONTENT[start:end])
        content.feed_eof()
        span = Span(start, end - start, len(CONTENT), last=end == len(CONTENT))
        with ThreadPoolExecutor() as threads:
            reception = Reception.begin(self.board, TOKEN, UploaderSettings())
            try:
                limits, promises = Limits(2**30, 2**30, 10), RememberedPromises()
                return await Receiver(reception, self.repository, threads, limits, promises, span).receive(content)
            finally:
                reception.release()


@pytest.fixture
def uploading() -> Uploading:
    """Two parts are here, of 3 and of 1 MiB."""
    uploading = Uploading()
    assert not uploading.send(0, 3 * MIB)
    assert not uploading.send(3 * MIB, 4 * MIB)
    assert [part.size_bytes for part in uploading.ticket.parts] == [3 * MIB, MIB]
    uploading.registry.asked.clear()
    return uploading


def require_complete(uploading: Uploading) -> None:
    assert uploading.ticket.state is UploadState.COMPLETE
    digest = Digest.parse(uploading.ticket.digest)
    parts = read_parts(uploading.repository, digest)
    assert find(uploading.repository) == (digest, parts)
    assert b"".join(uploading.repository.read_blob(part.digest) for part in parts) == CONTENT


def test_a_part_that_is_gone_at_the_end_is_asked_for_again(uploading: Uploading) -> None:
    uploading.lose(1)
    assert find(uploading.repository) is None
    with pytest.raises(RefusedError, match=f"from byte {3 * MIB} on; go on with the upload there") as caught:
        uploading.send(4 * MIB, 5 * MIB)
    assert caught.value.status == 409
    assert (uploading.ticket.state, uploading.ticket.offset_bytes) == (UploadState.WAITING, 3 * MIB)
    assert uploading.send(3 * MIB, 5 * MIB)
    require_complete(uploading)


def test_parts_are_used_again_before_the_registry_takes_them(uploading: Uploading) -> None:
    uploading.wait(timedelta(hours=5))
    assert not uploading.send(4 * MIB, 4 * MIB + 1)
    assert uploading.registry.count("HEAD ") == 0
    uploading.wait(timedelta(hours=5))
    parts = uploading.ticket.parts
    assert uploading.send(4 * MIB + 1, 5 * MIB)
    assert {str(part.digest) for part in parts} == {
        asked.rpartition("/")[2] for asked in uploading.registry.asked if asked.startswith("HEAD ")
    }
    assert datetime.now(UTC) - uploading.ticket.refreshed_at < timedelta(hours=1)
    require_complete(uploading)


def test_a_part_that_is_gone_between_two_bodies_is_told_before_the_second(uploading: Uploading) -> None:
    uploading.wait(timedelta(hours=30))
    uploading.lose(0)
    with pytest.raises(RefusedError, match="from byte 0 on"):
        uploading.send(4 * MIB, 5 * MIB)
    assert uploading.ticket.offset_bytes == 0
    assert uploading.registry.received_bytes == 4 * MIB, "nothing of the second was sent"
    assert uploading.send(0, 5 * MIB)
    require_complete(uploading)
