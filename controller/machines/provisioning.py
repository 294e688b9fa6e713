"""What the guest is given at its first start: `spec.provisioning`."""

import base64
import binascii

from controller.api.machine import ProvisioningType
from controller.api.resource import SECRET
from controller.launcher.spec import CloudInit, Sysprep
from controller.machines.launch import Launch, NotReady
from controller.machines.states import PROVISIONING_READY
from controller.machines.visit import Visit

_USER_DATA_KEYS = ("userData", "userdata", "user-data")
_ANSWER_FILES = ("unattend.xml", "autounattend.xml")


def provisioning(visit: Visit, launch: Launch) -> NotReady | None:
    """The prerequisite: the drive of cloud-init or of Windows' setup."""
    missing = _provide(visit, launch)
    if missing is not None:
        visit.machine.condition(PROVISIONING_READY, False, missing.reason, missing.message)
        return missing
    message = "the provisioning data is there" if visit.spec.provisioning else "none is asked for"
    visit.machine.condition(PROVISIONING_READY, True, "Ready", message)
    return None


def _provide(visit: Visit, launch: Launch) -> NotReady | None:
    wanted = visit.spec.provisioning
    if wanted is None:
        return None
    if wanted.type is ProvisioningType.USER_DATA:
        launch.cloud_init = _cloud_init(visit, wanted.user_data or "")
        return None
    named = wanted.user_data_secret_ref or wanted.sysprep_secret_ref
    name = named.name if named else ""
    secret = visit.cluster.get(SECRET, name, visit.machine.namespace)
    if secret is None:
        return NotReady("SecretNotFound", f"waits for Secret {name!r}, which does not exist")
    data: dict[str, str] = secret.get("data") or {}
    if wanted.type is ProvisioningType.SYSPREP_SECRET:
        return _provide_sysprep(launch, name, data)
    return _provide_user_data(visit, launch, name, data)


def _provide_user_data(visit: Visit, launch: Launch, name: str, data: dict[str, str]) -> NotReady | None:
    key = next((key for key in _USER_DATA_KEYS if key in data), None)
    if key is None:
        return NotReady("SecretInvalid", f"Secret {name!r} has no key 'userData'")
    try:
        user_data = base64.b64decode(data[key], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return NotReady("SecretInvalid", f"key {key!r} of Secret {name!r} is no text in UTF-8")
    launch.cloud_init = _cloud_init(visit, user_data)
    return None


def _provide_sysprep(launch: Launch, name: str, data: dict[str, str]) -> NotReady | None:
    if not any(key.lower() in _ANSWER_FILES for key in data):
        return NotReady("SecretInvalid", f"Secret {name!r} has neither a key 'unattend.xml' nor 'autounattend.xml'")
    launch.sysprep = Sysprep(files={key: value.encode() for key, value in data.items()})
    return None


def _cloud_init(visit: Visit, user_data: str) -> CloudInit:
    return CloudInit(user_data=user_data, instance_id=visit.machine.uid, hostname=visit.machine.name)
