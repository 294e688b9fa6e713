"""The NoCloud drive of cloud-init: an ISO 9660 image whose volume id is `cidata`."""

import json

from controller.launcher.iso import write_iso
from controller.launcher.spec import CloudInit

VOLUME_ID = "cidata"


def seed_iso(cloud_init: CloudInit) -> bytes:
    """The drive as bytes: `meta-data` with instance id and host name, and `user-data` as given.

    cloud-init runs anew when the instance id changes.
    """
    # YAML, with its strings quoted as JSON: whatever they contain stays a string.
    values = {"instance-id": cloud_init.instance_id, "local-hostname": cloud_init.hostname}
    meta_data = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    return write_iso(VOLUME_ID, {"meta-data": meta_data.encode(), "user-data": cloud_init.user_data.encode()})
