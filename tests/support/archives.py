"""Tar archives in memory."""

import io
import tarfile


def tar_of(*members: tuple[str, bytes], archive_format: int = tarfile.USTAR_FORMAT, links_to: str = "") -> bytes:
    """The members, by name and content; symbolic links where they are to lead elsewhere."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=archive_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if links_to:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, links_to, 0
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
