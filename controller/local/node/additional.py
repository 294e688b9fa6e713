"""Claims that come and go while a pod runs: links in the root folders of its containers.

What was linked is on record in the pod's folder, so that whoever takes the pod over knows what to unlink.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.api.pod_claims import additional_claims
from controller.local.node.volumes import PodVolumes
from dvcr.errors import DvcrError

Object = dict[str, Any]


class AdditionalMounts:
    """Of one pod. `sync` may be called again and again."""

    def __init__(self, volumes: PodVolumes, pod_folder: Path) -> None:
        self._volumes = volumes
        self._record = pod_folder / "additional.json"

    def sync(self, pod: Object, roots: Mapping[str, Path]) -> list[str]:
        """Link the claims that the pod's annotation names, and no others; what is missing, for people.

        `roots` are the root folders of the containers that run, by name.
        """
        try:
            wanted = additional_claims(pod)
        except DvcrError as exc:
            return [exc.message]
        missing = []
        links = {}
        for name, claim in wanted.items():
            try:
                target = self._volumes.claim(name, pod["metadata"]["namespace"])
            except DvcrError as exc:
                missing.append(exc.message)
                continue
            if claim.container not in roots:
                missing.append(f"container {claim.container!r} does not run")
                continue
            links[roots[claim.container] / claim.path.strip("/")] = target.absolute()
        for link in self._linked() - links.keys():
            link.unlink(missing_ok=True)
        # On record before they are there: a link that nobody knows of would stay.
        self._write(links)
        for link, target in links.items():
            if link.is_symlink() and link.readlink() == target:
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        return missing

    def _linked(self) -> set[Path]:
        try:
            return {Path(path) for path in json.loads(self._record.read_text())}
        except FileNotFoundError:
            return set()

    def _write(self, links: Mapping[Path, Path]) -> None:
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(sorted(str(link) for link in links)))
        new.replace(self._record)
