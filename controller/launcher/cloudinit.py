"""The NoCloud drive of cloud-init: an ISO 9660 image whose volume id is `cidata`."""

import io
import json

import pycdlib

from controller.launcher.spec import CloudInit

VOLUME_ID = "cidata"


def seed_iso(cloud_init: CloudInit) -> bytes:
    """The drive as bytes: `meta-data` with instance id and host name, and `user-data` as given.

    cloud-init runs anew when the instance id changes.
    """
    # YAML, with its strings quoted as JSON: whatever they contain stays a string.
    values = {"instance-id": cloud_init.instance_id, "local-hostname": cloud_init.hostname}
    meta_data = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME_ID)
    try:
        for name, text in (("meta-data", meta_data), ("user-data", cloud_init.user_data)):
            data = text.encode()
            short = name.replace("-", "").upper()
            iso.add_fp(io.BytesIO(data), len(data), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
        out = io.BytesIO()
        iso.write_fp(out)
    finally:
        iso.close()
    return out.getvalue()
