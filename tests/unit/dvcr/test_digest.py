import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvcr.digest import Digest, Hasher, InvalidDigestError, SavableHasher
from dvcr.errors import IntegrityError

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_parses_and_prints_the_canonical_text() -> None:
    digest = Digest.parse(EMPTY)
    assert (digest.algorithm, digest.hex, str(digest)) == ("sha256", EMPTY[7:], EMPTY)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("e3b0c442", "has no algorithm"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "'md5' is not supported"),
        ("sha256:abc", "64 lower-case hex digits"),
        (EMPTY.upper().replace("SHA256", "sha256"), "64 lower-case hex digits"),
        ("sha512:" + EMPTY[7:], "128 lower-case hex digits"),
        ("sha256:" + "g" * 64, "64 lower-case hex digits"),
        ("sha256:../../../etc/passwd", "64 lower-case hex digits"),
    ],
)
def test_refuses_what_is_no_digest_and_says_why(text: str, complaint: str) -> None:
    with pytest.raises(InvalidDigestError, match=complaint):
        Digest.parse(text)


@given(st.lists(st.binary(max_size=64)), st.sampled_from(["sha256", "sha512"]))
def test_pieces_hash_as_the_whole(pieces: list[bytes], algorithm: str) -> None:
    hasher = Hasher(algorithm)
    for piece in pieces:
        hasher.update(piece)
    whole = b"".join(pieces)
    assert hasher.digest() == Digest.of(whole, algorithm)
    assert hasher.digest().hex == hashlib.new(algorithm, whole).hexdigest()


@given(st.lists(st.binary(max_size=200)), st.sampled_from(["sha256", "sha512"]))
def test_a_saved_hasher_goes_on(pieces: list[bytes], algorithm: str) -> None:
    hasher = SavableHasher(algorithm)
    for piece in pieces:
        hasher.update(piece)
        hasher = SavableHasher.restore(hasher.save()) or hasher
    assert hasher.digest() == Digest.of(b"".join(pieces), algorithm)
    assert bool(hasher.save()) == (algorithm == "sha256")


@given(st.one_of(st.binary(max_size=200), st.integers(0, 111).map(lambda at: SavableHasher().save()[:at])))
def test_what_is_no_state_is_not_restored(saved: bytes) -> None:
    assert SavableHasher.restore(saved) is None


def test_verify_names_both_digests() -> None:
    Digest.parse(EMPTY).verify(b"")
    with pytest.raises(IntegrityError, match=EMPTY) as caught:
        Digest.parse(EMPTY).verify(b"x")
    assert caught.value.reason == "DigestMismatch"
    assert str(Digest.of(b"x")) in caught.value.message
