"""Write what the Helm chart has of the code: the CRDs, and the schema of `config`; `--check` only compares."""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from controller.api.kinds import crds
from dvcr.config import Settings

CHART = Path(__file__).parent.parent / "charts" / "dvcr"
SCHEMA = CHART / "values.schema.json"
CRDS = CHART / "files" / "crds"

NOT_IN_CONFIG = {
    # What only one machine has: its API server, its node, and what the controller registers where nobody installed it.
    "cluster", "node", "controller.kubeconfig", "controller.machine_api.external_name",
    "controller.webhooks.external_name",
    # What the chart's own objects say: where the parts find each other, their paths, ports and certificates.
    "storage.filesystem", "registry.host", "registry.port", "registry.tls.certificate_file", "registry.tls.key_file",
    "access.anonymous", "access.htpasswd_file", "access.token_key_dir", "client.url",
    "client.username", "client.credentials_file", "client.ca_file", "importer.scratch_dir",
    "uploader.host", "uploader.port",
    "uploader.external_url", "uploader.in_cluster_url", "uploader.tls.certificate_file", "uploader.tls.key_file",
    "monitoring", "controller.namespace", "controller.launcher_image", "controller.machine_api", "controller.webhooks",
    "launcher.cache_dir",
    # Neither the kubelet's probes nor DVCR's own parts have a certificate to show.
    "registry.tls.client_certificates", "uploader.tls.client_certificates",
    # Secrets.
    "storage.s3.access_key_id", "storage.s3.secret_access_key", "client.password", "broker.url",
}  # fmt: skip


def config_schema() -> dict[str, Any]:
    """The JSON schema of the value `config`."""
    schema = Settings.model_json_schema()
    definitions = schema.pop("$defs")
    return _without_excluded(_inlined(schema, definitions), Settings, "")


def render() -> dict[Path, str]:
    """The files and what they have to hold."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"] = config_schema()
    files = {SCHEMA: json.dumps(schema, indent=2) + "\n"}
    for crd in crds():
        plural = crd["spec"]["names"]["plural"]
        files[CRDS / f"{plural}.yaml"] = yaml.safe_dump(crd, sort_keys=False, width=120)
    return files


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Without references, and without what says nothing about what is valid."""
    if isinstance(node, list):
        return [_inlined(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = deepcopy(definitions[node["$ref"].rpartition("/")[2]])
        return _inlined(target | {key: value for key, value in node.items() if key != "$ref"}, definitions)
    if "properties" in node:
        node["properties"] = {name: _inlined(each, definitions) for name, each in node["properties"].items()}
    return {
        key: value if key == "properties" else _inlined(value, definitions)
        for key, value in node.items()
        if key not in ("title", "default", "format")
    }


def _without_excluded(schema: dict[str, Any], model: type[BaseModel], path: str) -> dict[str, Any]:
    for name, field in model.model_fields.items():
        place = f"{path}{name}"
        if place in NOT_IN_CONFIG:
            del schema["properties"][name]
        elif isinstance(field.default, BaseModel):
            _without_excluded(schema["properties"][name], type(field.default), f"{place}.")
    return schema


def main() -> None:
    files = render()
    if "--check" not in sys.argv:
        CRDS.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text)
    known = set(CRDS.glob("*")) | {SCHEMA}
    stale = [p for p in sorted(known | set(files)) if p not in files or not p.exists() or p.read_text() != files[p]]
    if stale:
        names = ", ".join(str(path.relative_to(CHART.parent.parent)) for path in stale)
        sys.exit(f"{names}: not what the code says; run `make docs`")


if __name__ == "__main__":
    main()
