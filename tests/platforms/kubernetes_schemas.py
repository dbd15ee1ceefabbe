"""What an API server makes of an object: kubernetes-validate's schemas for what is built in, those
of `crds/` for what is installed, and the rules between fields that no schema has."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import importlib_resources
import yaml
from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource

VERSIONS = [version for version in dict.fromkeys(all_versions()) if version >= "1.28"]
NEWEST = VERSIONS[-1]
CRDS = Path(__file__).parent / "crds"
CUSTOM = {
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): ("trainjob.yaml", None),
    ("kubeflow.org/v1", "PyTorchJob"): ("pytorchjob.yaml", None),
    ("batch.volcano.sh/v1alpha1", "Job"): ("volcano.yaml", "job"),
    ("bus.volcano.sh/v1alpha1", "Command"): ("volcano.yaml", "command"),
    ("kueue.x-k8s.io/v1beta1", "Workload"): ("kueue.yaml", None),
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): ("jobset.yaml", None),
    ("scheduling.x-k8s.io/v1alpha1", "PodGroup"): ("podgroup.yaml", None),
    ("serving.kserve.io/v1beta1", "InferenceService"): ("inferenceservice.yaml", None),
}


class SchemaFault(NamedTuple):
    """What is wrong with which field."""

    field: str
    message: str
    unknown: bool = False


@cache
def _schema(version: str, name: str) -> Any:
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    file = importlib_resources.files("kubernetes_validate").joinpath(folder, f"{name}.json")
    return json.loads(file.read_text())


@cache
def _validator(api_version: str, kind: str, version: str) -> Draft202012Validator:
    definitions = Resource.from_contents(_schema(version, "_definitions"))
    if (api_version, kind) in CUSTOM:
        file, part = CUSTOM[api_version, kind]
        schema = yaml.safe_load((CRDS / file).read_text())
        schema = schema[part] if part else schema
    else:
        group, _, tail = api_version.rpartition("/")
        stem = "-".join(filter(None, (group.split(".")[0], tail)))
        schema = _schema(version, f"{kind.lower()}-{stem}")
    return Draft202012Validator(schema, registry=definitions @ Registry())


def faults(manifest: dict[str, Any], version: str = NEWEST) -> list[SchemaFault]:
    """What a server of this version refuses; nothing where all is well."""
    validator = _validator(manifest["apiVersion"], manifest["kind"], version)
    found = [_fault(error) for error in validator.iter_errors(manifest)]
    return [*found, *_between_fields(manifest)]


def _fault(error: ValidationError) -> SchemaFault:
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        extra = sorted(set(error.instance) - set(error.schema.get("properties", {})))
        return SchemaFault(f"{where}.{extra[0]}", "unknown field", True)
    return SchemaFault(where, error.message)


def pod_templates(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod templates in a manifest; of a TrainJob, the patch and the trainer as one."""
    spec = manifest.get("spec", {})
    if "trainer" in spec:
        patch = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
        pod = patch["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        trainer = {key: spec["trainer"][key] for key in ("image", "command", "args", "env")}
        whole = {**container, **trainer, "resources": spec["trainer"]["resourcesPerNode"]}
        yield {"spec": {**pod, "containers": [whole]}}
    elif "pytorchReplicaSpecs" in spec:
        yield from (one["template"] for one in spec["pytorchReplicaSpecs"].values())
    elif "replicatedJobs" in spec:
        yield from (one["template"]["spec"]["template"] for one in spec["replicatedJobs"])
    elif "tasks" in spec:
        yield from (task["template"] for task in spec["tasks"])
    elif "predictor" in spec:
        yield {"spec": spec["predictor"]}
    elif "template" in spec:
        yield spec["template"]


def _between_fields(manifest: dict[str, Any]) -> Iterator[SchemaFault]:
    name = manifest.get("metadata", {}).get("name", "")
    longest = 63 if manifest["kind"] not in ("ConfigMap", "Command") else 253
    if len(name) > longest:
        message = f'Invalid value: "{name}": must be no more than {longest} characters'
        yield SchemaFault("metadata.name", message)
    if manifest["kind"] == "TrainJob":
        for one in manifest.get("spec", {}).get("trainer", {}).get("env", []):
            if one["name"].startswith("PET_"):
                yield SchemaFault(
                    "spec.trainer.env", f"must not have reserved envs, got {one['name']}"
                )
    if manifest["kind"] == "InferenceService":
        yield from _inference_service(manifest)
    if manifest["kind"] == "JobSet":
        yield from _job_set(manifest)
    if manifest["apiVersion"] == "batch/v1" and "podFailurePolicy" in manifest["spec"]:
        yield from _pod_failure_policy(manifest["spec"])
    for template in pod_templates(manifest):
        yield from _pod(template["spec"])


def _inference_service(manifest: dict[str, Any]) -> Iterator[SchemaFault]:
    """The rules of KServe's webhook (0.16) for a custom predictor."""
    notes, predictor = manifest["metadata"].get("annotations") or {}, manifest["spec"]["predictor"]
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"]):
        yield SchemaFault("metadata.name", "must start with alphabetical character")
    mode = notes.get("serving.kserve.io/deploymentMode")
    scaler = notes.get("serving.kserve.io/autoscalerClass")
    if scaler not in (None, "hpa", "keda", "external", "none"):
        yield SchemaFault("metadata.annotations", f"[{scaler}] is not a supported autoscaler class")
    metrics = ("cpu", "memory") if (mode, scaler) == ("Standard", "hpa") else ("concurrency", "rps")
    if predictor.get("scaleMetric") not in (None, *metrics):
        message = f"[{predictor['scaleMetric']}] is not a supported metric"
        yield SchemaFault("spec.predictor.scaleMetric", message)
    if "cpu" in metrics and not 1 <= predictor.get("scaleTarget", 80) <= 100:
        message = "the target utilization percentage should be a [1-100] integer"
        yield SchemaFault("spec.predictor.scaleTarget", message)
    if 0 < predictor.get("maxReplicas", 0) < predictor.get("minReplicas", 1):
        message = "MinReplicas cannot be greater than MaxReplicas"
        yield SchemaFault("spec.predictor.minReplicas", message)
    if [one["name"] for one in predictor["containers"]] != ["kserve-container"]:
        yield SchemaFault("spec.predictor.containers", "expected one, kserve-container")


def _job_set(manifest: dict[str, Any]) -> Iterator[SchemaFault]:
    """The rules of JobSet's webhook (0.10)."""
    jobs = manifest.get("spec", {}).get("replicatedJobs", [])
    for one in jobs:
        job = one["template"]["spec"]
        last = f"{one['replicas'] - 1}-{job['completions'] - 1}"
        longest = f"{manifest['metadata']['name']}-{one['name']}-{last}-abcde"
        if len(longest) > 63 or not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", longest):
            yield SchemaFault("metadata.name", f"pod names will exceed 63 characters: {longest}")
        yield from _pod_failure_policy(job)
    policy = manifest.get("spec", {}).get("failurePolicy", {})
    names = [rule["name"] for rule in policy.get("rules", [])]
    if len(set(names)) < len(names):
        yield SchemaFault("spec.failurePolicy", "rule names are not unique")
    for rule in policy.get("rules", []):
        if not {*rule.get("targetReplicatedJobs", [])} <= {one["name"] for one in jobs}:
            yield SchemaFault("spec.failurePolicy", "does not appear in .spec.ReplicatedJobs")


def _pod_failure_policy(spec: dict[str, Any]) -> Iterator[SchemaFault]:
    pod = spec["template"]["spec"]
    if pod.get("restartPolicy") != "Never":
        yield SchemaFault("spec.template.spec.restartPolicy", "must be Never with podFailurePolicy")
    if spec.get("podReplacementPolicy", "Failed") != "Failed":
        yield SchemaFault("spec.podReplacementPolicy", "must be Failed with podFailurePolicy")
    names = {container["name"] for container in pod["containers"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in spec:
            yield SchemaFault("spec.podFailurePolicy", "FailIndex needs backoffLimitPerIndex")
        codes = rule.get("onExitCodes")
        if codes and codes.get("containerName") not in names | {None}:
            yield SchemaFault("spec.podFailurePolicy", f"no container {codes['containerName']}")
        values = codes["values"] if codes else [1]
        if values != sorted(set(values)) or 0 in values:
            yield SchemaFault("spec.podFailurePolicy", "values must be ordered, unique and not 0")


def _pod(pod: dict[str, Any]) -> Iterator[SchemaFault]:
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    if len(set(volumes)) < len(volumes):
        yield SchemaFault("spec.volumes", "names must be unique")
    for container in pod["containers"]:
        mounts = container.get("volumeMounts", [])
        paths = [mount["mountPath"] for mount in mounts]
        if len(set(paths)) < len(paths):
            yield SchemaFault("spec.containers.volumeMounts", "mountPath must be unique")
        for mount in mounts:
            if mount["name"] not in volumes:
                yield SchemaFault("spec.containers.volumeMounts", f"not found: {mount['name']}")
        resources = container.get("resources", {})
        for name, limit in resources.get("limits", {}).items():
            if "/" in name and resources["requests"].get(name) != limit:
                yield SchemaFault(f"spec.containers.resources.{name}", "must be equal to its limit")
