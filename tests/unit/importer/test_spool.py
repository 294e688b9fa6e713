"""What a spool keeps for a job's next delivery."""

from pathlib import Path

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
