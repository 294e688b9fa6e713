"""What a spool keeps for a job's next delivery."""

from pathlib import Path

import pytest

from importer.kept import discard, sweep
from importer.spool import Spool


def test_bytes_and_what_proves_them_outlive_a_delivery(tmp_path: Path) -> None:
    first = Spool(tmp_path, "job")
    first.note({"etag": "a"})
    first.write(0, b"bytes")
    first.close(keep=True)
    second = Spool(tmp_path, "job")
    assert (second.identity, second.read(0, second.kept_bytes)) == ({"etag": "a"}, b"bytes")
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_another_file_are_never_told_to_be_those_of_the_first(tmp_path: Path) -> None:
    first = Spool(tmp_path, "job")
    first.note({"etag": "a"})
    first.write(0, b"bytes")
    first.close(keep=True)
    second = Spool(tmp_path, "job")
    second.restart()
    second.note(None)  # this time the server told nothing that would prove anything
    second.write(0, b"other bytes")
    second.close(keep=True)
    assert list(tmp_path.iterdir()) == [], "they would be of no use"
    third = Spool(tmp_path, "job")
    assert third.identity is None
    assert third.kept_bytes == 0
    third.close()


def test_an_empty_file_is_not_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "job")
    spool.note({"etag": "a"})
    spool.close(keep=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["discard", "sweep"])
def test_a_journal_that_was_never_finished_goes_with_the_bytes(how: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path, "job")
    spool.note({"etag": "a"})
    spool.write(0, b"bytes")
    spool.close(keep=True)
    (data,) = tmp_path.glob("*.data")
    data.with_suffix(".new").write_text("{")
    if how == "discard":
        discard(tmp_path, "job")
    else:
        sweep(tmp_path, keep_s=-60)
    assert list(tmp_path.iterdir()) == []
