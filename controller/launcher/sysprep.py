"""The CD-ROM with the answer files of Windows' unattended setup.

Windows looks for `Autounattend.xml` (setup) and `Unattend.xml` (an installed system's first start) in the root folder
of every removable medium, in the order of the drive letters, whatever the volume is called. So the files must be in
the root folder of a drive that Windows takes for removable: a CD-ROM, on a bus that it has a driver for (SATA).
"""

from controller.launcher.iso import write_iso
from controller.launcher.spec import Sysprep

VOLUME_ID = "SYSPREP"


def sysprep_iso(sysprep: Sysprep) -> bytes:
    """The drive as bytes."""
    return write_iso(VOLUME_ID, sysprep.files)
