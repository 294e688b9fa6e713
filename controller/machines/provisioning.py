"""What the guest is given at its first start: `spec.provisioning`."""

import base64
import binascii

from controller.api.resource import SECRET
from controller.machines.launch import Launch, NotReady
from controller.machines.states import PROVISIONING_READY
from controller.machines.visit import Visit


def provisioning(visit: Visit, launch: Launch) -> NotReady | None:
    """The prerequisite: user data from the spec or from a Secret."""
    found = _user_data(visit)
    if isinstance(found, NotReady):
        visit.machine.condition(PROVISIONING_READY, False, found.reason, found.message)
        return found
    launch.user_data = found
    visit.machine.condition(PROVISIONING_READY, True, "Ready", "the provisioning data is there")
    return None


def _user_data(visit: Visit) -> str | NotReady | None:
    wanted = visit.spec.provisioning
    if wanted is None:
        return None
    if wanted.user_data is not None:
        return wanted.user_data
    if wanted.user_data_secret_ref is None:
        return NotReady("ProvisioningNotSupported", f"provisioning by {wanted.type.value} is not there yet")
    name = wanted.user_data_secret_ref.name
    secret = visit.cluster.get(SECRET, name, visit.machine.namespace)
    if secret is None:
        return NotReady("SecretNotFound", f"waits for Secret {name!r}, which does not exist")
    data = secret.get("data") or {}
    for key in ("userData", "userdata", "user-data"):
        if key in data:
            try:
                return base64.b64decode(data[key], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return NotReady("SecretInvalid", f"key {key!r} of Secret {name!r} is no text in UTF-8")
    return NotReady("SecretInvalid", f"Secret {name!r} has no key 'userData'")
