import io

import pycdlib

from controller.launcher.spec import Sysprep
from controller.launcher.sysprep import sysprep_iso


def test_the_answer_files_are_in_the_root_folder_under_their_names_byte_for_byte() -> None:
    answer = "<unattend>ü</unattend>".encode("utf-16")
    sysprep = Sysprep.model_validate_json(Sysprep.model_construct(files={"Autounattend.xml": answer}).model_dump_json())

    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(sysprep_iso(sysprep)))
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, joliet_path="/Autounattend.xml")

    assert out.getvalue() == answer
