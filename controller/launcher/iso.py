"""Small CD-ROMs: ISO 9660 images with the long names of both Rock Ridge and Joliet."""

import io
from collections.abc import Mapping

import pycdlib


def write_iso(volume_id: str, files: Mapping[str, bytes]) -> bytes:
    """An image with these files in its root folder."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=volume_id)
    try:
        for number, (name, data) in enumerate(files.items()):
            # The short name is there for the format only: every system of today reads one of the long ones.
            iso.add_fp(io.BytesIO(data), len(data), f"/FILE{number:04}.;1", rr_name=name, joliet_path=f"/{name}")
        out = io.BytesIO()
        iso.write_fp(out)
    finally:
        iso.close()
    return out.getvalue()
