"""Extended headers of tar archives (POSIX.1, "pax Extended Header")."""

from collections.abc import Iterator


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each record, in time linear in the header's length; ValueError where it is damaged."""
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length) <= len(data) - at:
            raise ValueError("a pax header is damaged")
        key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        yield key, value
        at += int(length)


def file_size(records: dict[str, str], size_bytes: int) -> int:
    """The size that the records give the file that follows; `size_bytes`, as its own header says, if they do not."""
    text = records.get("size", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else size_bytes
