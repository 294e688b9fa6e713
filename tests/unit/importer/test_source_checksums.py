import hashlib

import pytest

from dvcr.errors import IntegrityError, ResourceError
from importer.checksums import HEX_LENGTHS, Checksums


@pytest.mark.parametrize("algorithm", HEX_LENGTHS)
def test_each_algorithm(algorithm: str) -> None:
    value = hashlib.new(algorithm, b"one two").hexdigest()
    checksums = Checksums({algorithm: value.upper()})
    checksums.update(b"one ")
    with pytest.raises(IntegrityError, match=algorithm):
        checksums.verify()
    checksums.update(b"two")
    checksums.verify()


def test_every_promise_must_be_kept() -> None:
    checksums = Checksums({"md5": hashlib.md5(b"x").hexdigest(), "sha256": "0" * 64})
    checksums.update(b"x")
    with pytest.raises(IntegrityError, match="sha256"):
        checksums.verify()


@pytest.mark.parametrize("promised", [{"crc32": "00000000"}, {"md5": "00"}, {"sha256": "g" * 64}])
def test_what_is_no_checksum(promised: dict[str, str]) -> None:
    with pytest.raises(ResourceError):
        Checksums(promised)
