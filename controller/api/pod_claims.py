"""The claims that a pod uses, also those besides its spec's volumes, which cannot once the pod is there.

A node that knows these annotations mounts and unmounts additional claims while the pod runs, and tells of it in a
condition of the pod; another node (a kubelet) ignores them.
"""

import json
from typing import Any

from pydantic import ValidationError, model_validator

from controller.api.model import ApiModel
from controller.api.resource import GROUP
from dvcr.errors import ResourceError

ADDITIONAL_CLAIMS_ANNOTATION = f"{GROUP}/additional-claims"
"""JSON: AdditionalClaim by the name of the claim."""
RELEASED_CLAIMS_ANNOTATION = f"{GROUP}/released-claims"
"""JSON: names of claims that are among the spec's volumes, but that the pod no longer uses."""
CLAIMS_MOUNTED_CONDITION = f"{GROUP}/AdditionalClaimsMounted"
"""Condition of a pod with additional claims: whether all of them are there, and what is missing."""

Object = dict[str, Any]


class AdditionalClaim(ApiModel):
    """Where a claim is to appear: as a folder or, with volume mode Block, as a device."""

    container: str
    mount_path: str | None = None
    device_path: str | None = None

    @property
    def path(self) -> str:
        """The folder's or the device's path in the container."""
        return self.mount_path or self.device_path or ""

    @model_validator(mode="after")
    def _check_path(self) -> "AdditionalClaim":
        parts = self.path.split("/")
        if (self.mount_path is None) == (self.device_path is None):
            raise ValueError("needs either mountPath or devicePath")
        if not self.path.startswith("/") or ".." in parts or not self.path.strip("/"):
            raise ValueError(f"the path {self.path!r} must be absolute, without '..', and not '/'")
        return self


def additional_claims(pod: Object) -> dict[str, AdditionalClaim]:
    """The claims to be mounted besides the spec's volumes, by name; ResourceError if the annotation is broken."""
    text = _annotation(pod, ADDITIONAL_CLAIMS_ANNOTATION)
    try:
        return {name: AdditionalClaim.read(value) for name, value in json.loads(text or "{}").items()}
    except (ValueError, ValidationError, AttributeError) as exc:
        raise ResourceError(
            f"annotation {ADDITIONAL_CLAIMS_ANNOTATION} of pod {pod['metadata']['name']!r}: {exc}",
            field="metadata.annotations",
        ) from exc


def released_claims(pod: Object) -> set[str]:
    """Claims among the spec's volumes that the pod no longer uses."""
    return set(json.loads(_annotation(pod, RELEASED_CLAIMS_ANNOTATION) or "[]"))


def write_claims(additional: dict[str, AdditionalClaim], released: set[str]) -> dict[str, str | None]:
    """The annotations, as a patch: None takes one away."""
    wire = {name: claim.write() for name, claim in sorted(additional.items())}
    return {
        ADDITIONAL_CLAIMS_ANNOTATION: json.dumps(wire) if wire else None,
        RELEASED_CLAIMS_ANNOTATION: json.dumps(sorted(released)) if released else None,
    }


def volume_claims(pod: Object) -> set[str]:
    """Names of the claims among the volumes of the pod's spec."""
    volumes = pod["spec"].get("volumes") or ()
    return {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}


def claims_of(pod: Object) -> set[str]:
    """Names of all claims that the pod uses."""
    return (volume_claims(pod) - released_claims(pod)) | additional_claims(pod).keys()


def _annotation(pod: Object, name: str) -> str | None:
    value: str | None = (pod["metadata"].get("annotations") or {}).get(name)
    return value
