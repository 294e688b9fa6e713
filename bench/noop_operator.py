# mypy: ignore-errors
"""The operator beside ours: kopf with handlers that do nothing, for `kopf run`. Prints when it has seen all objects.

Its types are not checked: kopf is only in the environment that the bench makes for it.
"""

import os
from itertools import count
from typing import Any

import kopf

_seen = count(1)
_GROUP, _VERSION = "virtualization.deckhouse.io", "v1alpha2"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """As quiet as it can be."""
    settings.posting.enabled = False


@kopf.on.create(_GROUP, _VERSION, "virtualmachineimages")
@kopf.on.create(_GROUP, _VERSION, "virtualmachinedisks")
@kopf.on.create(_GROUP, _VERSION, "virtualmachines")
async def create(**_: Any) -> None:
    """Nothing."""
    if next(_seen) == int(os.environ["OBJECTS"]):
        print("all seen", flush=True)
