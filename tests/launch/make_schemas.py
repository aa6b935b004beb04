"""Makes schemas.json, against which the manifests of launch/ are checked, from the packages that carry the schemas.

    python -m venv /tmp/schemas && /tmp/schemas/bin/pip install kubernetes-validate kubeflow-trainer-api skypilot
    /tmp/schemas/bin/python tests/launch/make_schemas.py

Kept is what a training job may use, without the descriptions; any other field is refused. A manifest that needs a field of
`LEFT_OUT` takes it out of there. Sources, all under Apache-2.0:

* Kubernetes' Job and Service: the OpenAPI definitions of Kubernetes, as packed in kubernetes-validate;
* JobSet (kubernetes-sigs/jobset): its models in kubeflow-trainer-api; the choices are read from the descriptions;
* SkyPilot's task: sky/utils/schemas.py of skypilot, as its server checks it.
"""

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

KUBERNETES = "v1.37.0-local-strict"
LEFT_OUT = set(
    "affinity ephemeralContainers managedFields ownerReferences resourceClaims schedulingGroup overhead dnsConfig lifecycle "
    "livenessProbe readinessProbe startupProbe windowsOptions awsElasticBlockStore azureDisk azureFile cephfs cinder downwardAPI "
    "ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs iscsi photonPersistentDisk portworxVolume projected quobyte "
    "rbd scaleIO storageos vsphereVolume image_volume seLinuxOptions seccompProfile appArmorProfile sysctls hostAliases "
    "readinessGates schedulingGates volumeDevices resizePolicy resourceFieldRef fileKeyRef".split()
)


def strip(node: Any) -> Any:
    """The schema without descriptions and what is left out."""
    if isinstance(node, list):
        return [strip(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": "#/$defs/" + node["$ref"].rpartition("/")[2].rpartition("$defs.")[2]}
    kept = {
        name: strip(item)
        for name, item in node.items()
        if not (name.startswith("x-") or name in ("$schema", "default", "title") or (name == "description" and isinstance(item, str)))
    }
    if isinstance(kept.get("properties"), dict):
        # `status` is what the cluster writes; where it is no object it is another thing.
        left_out = LEFT_OUT | ({"status"} if "$ref" in kept["properties"].get("status", {}) else set())
        kept["properties"] = {name: item for name, item in kept["properties"].items() if name not in left_out}
    return kept


def kubernetes() -> dict[str, Any]:
    """Job and Service with the definitions that they need."""
    import kubernetes_validate

    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / KUBERNETES
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    kept: dict[str, Any] = {}
    wanted = ["io.k8s.api.batch.v1.Job", "io.k8s.api.batch.v1.JobTemplateSpec", "io.k8s.api.core.v1.Service"]
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = strip(definitions[name])
            kept[name].setdefault("additionalProperties", False) if "properties" in kept[name] else None
            wanted += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(kept[name]))
    return kept


def jobset() -> dict[str, Any]:
    """JobSet; the template of its jobs is Kubernetes' own."""
    from kubeflow_trainer_api import models

    kept: dict[str, Any] = {}
    for name, schema in models.JobsetV1alpha2JobSet.model_json_schema(by_alias=True)["$defs"].items():
        if name.startswith("JobsetV1alpha2") and not name.endswith("Status"):
            kept[name] = {**_with_choices(schema), "additionalProperties": False}
    kept["JobsetV1alpha2ReplicatedJob"]["properties"]["template"] = {"$ref": "#/$defs/io.k8s.api.batch.v1.JobTemplateSpec"}
    for name in ("JobsetV1alpha2VolumeClaimPolicy", "JobsetV1alpha2VolumeRetentionPolicy"):
        kept.pop(name, None)
    kept["JobsetV1alpha2JobSetSpec"]["properties"].pop("volumeClaimPolicies", None)
    metadata = {"$ref": "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    kept["JobSet"] = {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
            "kind": {"const": "JobSet"},
            "metadata": metadata,
            "spec": {"$ref": "#/$defs/JobsetV1alpha2JobSetSpec"},
        },
    }
    return kept


def _with_choices(schema: dict[str, Any]) -> dict[str, Any]:
    """A model's schema; where a description lists valid values, these alone."""
    kept = strip(schema)
    for name, item in schema.get("properties", {}).items():
        listed = re.search(r"Valid values are ([\w, ]+)\.", item.get("description", ""))
        if listed:
            kept["properties"][name] = {"enum": [word for word in re.split(r",\s*|\s+and\s+", listed[1]) if word]}
    return kept


def skypilot() -> dict[str, Any]:
    """A task, and its parts that SkyPilot checks apart."""
    from sky.utils import schemas

    schemas._allow_additional_properties = lambda: False  # as on SkyPilot's server; its client lets unknown fields pass
    task = schemas.get_task_schema()
    for name in ("config", "volume_mounts"):
        del task["properties"][name]
    resources = schemas.get_resources_schema()
    for name in ("any_of", "ordered", "_cluster_config_overrides", "_docker_login_config", "_docker_username_for_runpod"):
        resources["properties"].pop(name, None)
    return {"skypilot.task": strip(task), "skypilot.resources": strip(resources), "skypilot.storage": strip(schemas.get_storage_schema())}


def main() -> None:
    """Writes schemas.json next to this file."""
    packages = ("kubernetes-validate", "kubeflow-trainer-api", "skypilot")
    source = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    tree = {
        "$comment": f"Made by make_schemas.py from {source}; Apache-2.0. See there.",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": dict(sorted({**kubernetes(), **jobset(), **skypilot()}.items())),
    }
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(item, separators=(',', ':'))}" for name, item in tree["$defs"].items())
    tree["$defs"] = "@"
    text = json.dumps(tree, indent=1).replace('"@"', "{\n" + lines + "\n}")
    Path(__file__).with_name("schemas.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
