"""Which files are known to be whole, told between processes."""

import os
from dataclasses import replace

from dvcr.digest import Digest
from dvcr.registry.trust import SIZE_BYTES, Trust, now

BLOB = Digest.of(b"blob")
FILE = (1, 2, 3, 4)


def test_what_was_granted_is_known_of_that_file_and_blob_only() -> None:
    trust = Trust()
    assert trust.seen_at(BLOB, FILE) is None
    begin = now()
    trust.grant(BLOB, FILE)
    seen_at = trust.seen_at(BLOB, FILE)
    assert seen_at is not None
    assert begin <= seen_at <= now()
    assert trust.seen_at(BLOB, (1, 2, 3, 5)) is None
    assert trust.seen_at(replace(BLOB, hex=BLOB.hex[:-1] + "0"), FILE) is None


def test_another_blob_in_the_same_slot_takes_its_place() -> None:
    trust, other = Trust(), replace(BLOB, hex=BLOB.hex[:8] + "0" * 56)
    trust.grant(BLOB, FILE)
    trust.grant(other, FILE, 5.0)
    assert trust.seen_at(BLOB, FILE) is None
    assert trust.seen_at(other, FILE) == 5.0


def test_a_slot_that_two_processes_wrote_at_once_says_nothing() -> None:
    early, late = bytearray(SIZE_BYTES), bytearray(SIZE_BYTES)
    Trust(early).grant(BLOB, FILE, 5.1)
    Trust(late).grant(BLOB, FILE, 6.7)
    assert Trust(early).seen_at(BLOB, FILE) == 5.1
    begin = next(offset for offset in range(SIZE_BYTES) if early[offset])
    for cut in range(begin + 1, begin + 32):
        assert Trust(late[:cut] + early[cut:]).seen_at(BLOB, FILE) is None


def test_a_forked_process_shares_it() -> None:
    trust = Trust()
    child = os.fork()
    if not child:
        trust.grant(BLOB, FILE, 7.0)
        os._exit(0)
    os.waitpid(child, 0)
    assert trust.seen_at(BLOB, FILE) == 7.0
