import io
from typing import Any

import pycdlib
import pytest
import yaml

from controller.launcher.cloudinit import seed_iso
from controller.launcher.spec import CloudInit


def read_back(data: bytes, **path: str) -> bytes:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(data))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, **path)
    iso.close()
    return out.getvalue()


USER_DATA = "#cloud-config\nruncmd:\n  - echo grüß dich\n"


@pytest.mark.parametrize("path", ["rr_path", "joliet_path"])
def test_both_files_are_found_under_their_long_names(path: str) -> None:
    data = seed_iso(CloudInit(user_data=USER_DATA, instance_id="i-1", hostname="web"))

    assert read_back(data, **{path: "/user-data"}) == USER_DATA.encode()
    meta: dict[str, Any] = yaml.safe_load(read_back(data, **{path: "/meta-data"}))
    assert meta == {"instance-id": "i-1", "local-hostname": "web"}


def test_the_volume_id_is_what_cloud_init_looks_for() -> None:
    data = seed_iso(CloudInit(user_data="", instance_id="i", hostname="h"))

    assert data[32808:32840].decode() == "cidata".ljust(32)


def test_names_that_yaml_would_take_for_something_else_stay_strings() -> None:
    data = seed_iso(CloudInit(user_data="", instance_id="1e3", hostname="yes"))

    assert yaml.safe_load(read_back(data, rr_path="/meta-data")) == {"instance-id": "1e3", "local-hostname": "yes"}


def test_large_user_data_survives() -> None:
    text = "#!/bin/sh\n" + "echo x\n" * 100_000

    data = seed_iso(CloudInit(user_data=text, instance_id="i", hostname="h"))

    assert read_back(data, rr_path="/user-data") == text.encode()
