"""AWS SageMaker training jobs: the facts are files below /opt/ml; the only variable
is the job's name.

Hyperparameters are overrides of the job spec, channels replace its URIs, and the job spec is the
channel `spec`, or hyperparameters `spec_base64_0`, `spec_base64_1`, ... A processing job has other
files and no hyperparameters: its spec is in variables `SEGADAPT_SPEC_BASE64_0` and so on.
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from adapt.errors import JobError
from adapt.places.place import (
    CHANNELS,
    FILE_CHANNELS,
    Place,
    channel_override,
    is_supervised,
    number,
)

log = logging.getLogger(__name__)

SAGEMAKER_HOSTS = "opt/ml/input/config/resourceconfig.json"
SAGEMAKER_FAILURE = "opt/ml/output/failure"
"""Below the root."""
SAGEMAKER_PROCESSING = "opt/ml/config/processingjobconfig.json"
SAGEMAKER_MESSAGE = "opt/ml/output/message"
"""The same of a processing job: its description, and the file that AWS shows as ExitMessage."""
_PROCESSING_HOSTS = "opt/ml/config/resourceconfig.json"

GRACE_S = 120.0
PROCESSING_GRACE_S = 30.0
"""AWS states no grace for processing jobs: the usual one of containers."""
SPEC_PARTS = "spec_base64_"
SPEC_VARIABLES = "SEGADAPT_SPEC_BASE64_"
TUNING = "_tuning_objective_metric"
WITH_EFA = ("ml.p3dn.", "ml.p4", "ml.p5", "ml.p6", "ml.g4dn.12xlarge", "ml.g5.48xlarge")
"""Prefixes of the types of machines with AWS's fast network between them."""


def sagemaker(environment: Mapping[str, str], root: Path) -> Place | None:
    """A place where SageMaker's description of the hosts lies."""
    if (root / SAGEMAKER_PROCESSING).exists():
        return _processing(environment, root)
    config, folder = root / "opt/ml/input/config", root / "opt/ml"
    if not (root / SAGEMAKER_HOSTS).exists():
        return None
    resources = _resources(root / SAGEMAKER_HOSTS)
    hosts = sorted(resources["hosts"])
    given = _hyperparameters(config, environment)
    return Place(
        "sagemaker",
        {**_network(resources), **_with_spec(environment, given, SPEC_PARTS)},
        Path(tempfile.gettempdir()) / "segadapt",  # the machine's large disk, as /opt/ml is
        grace_s=GRACE_S,
        num_nodes=len(hosts),
        node=hosts.index(resources["current_host"]),
        master_addr=hosts[0],
        master_port=number(environment, "PET_MASTER_PORT") or Place.master_port,
        failure_file=root / SAGEMAKER_FAILURE if _writable(folder / "output") else None,
        job=environment.get("TRAINING_JOB_NAME") or None,
        spec=given.get("spec") or _spec_channel(folder),
        overrides=(*_channels(config, root), *_overrides(given)),
        model_dir=folder / "model"
        if _writable(folder / "model", not is_supervised(environment))
        else None,
    )


def _processing(environment: Mapping[str, str], root: Path) -> Place:
    """The place of a container of a processing job."""
    resources = _resources(root / _PROCESSING_HOSTS)
    hosts = sorted(resources["hosts"])
    name = _read(root / SAGEMAKER_PROCESSING).get("ProcessingJobName")
    message = root / SAGEMAKER_MESSAGE
    return Place(
        "sagemaker",
        {**_network(resources), **_with_spec(environment, environment, SPEC_VARIABLES)},
        Path(tempfile.gettempdir()) / "segadapt",
        grace_s=PROCESSING_GRACE_S,
        num_nodes=len(hosts),
        node=hosts.index(resources["current_host"]),
        master_addr=hosts[0],
        failure_file=message if _writable(message.parent) else None,
        job=str(name) if name else None,
    )


@cache
def _writable(folder: Path, tell: bool = False) -> bool:
    """True where we may write: SageMaker's folders may belong to root, our image's user is
    another. Training needs neither model nor output, so it continues without them."""
    there = next(part for part in (folder, *folder.parents) if part.exists())
    writable = os.access(there, os.W_OK)
    if tell and not writable:
        log.warning(
            "%s belongs to another user than uid %d: the best weights will be in checkpoint.uri "
            "alone. Fix: let the image run as root (docs/platforms/sagemaker.md).",
            folder,
            os.getuid(),
        )
    return writable


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:  # also of bytes that are no text
        raise JobError(f"{path}: expected JSON, got other text: {error}") from error
    if not isinstance(found, dict):
        raise JobError(f"{path}: expected a JSON object, got {found!r:.80}")
    return found


def _resources(path: Path) -> dict[str, Any]:
    found = _read(path)
    hosts, current = found.get("hosts"), found.get("current_host")
    if not isinstance(hosts, list) or current not in hosts:
        raise JobError(
            f"{path}: expected current_host to be one of hosts, got {current!r} and {hosts!r:.80}"
        )
    return found


def _hyperparameters(config: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are keys of the job spec. SageMaker's own begin with `sagemaker_` and `_`.

    A tuning job adds the metric that it looks at. Its jobs share one spec, and would share one run:
    each is a run of its own, named after the job.
    """
    found = _read(config / "hyperparameters.json")
    ours = {key: value for key, value in found.items() if not key.startswith(("sagemaker_", "_"))}
    job = environment.get("TRAINING_JOB_NAME")
    tuned = {"name": job} if TUNING in found and job else {}
    return {key: _plain(value) for key, value in {**tuned, **ours}.items()}


def _plain(value: object) -> str:
    """The text of `--set`. SageMaker's values are strings, which its SDK also encodes as JSON, so
    that text comes in quotes; programs that imitate it leave numbers and lists as they are."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


def _overrides(given: Mapping[str, str]) -> list[str]:
    keys = [key for key in given if key != "spec" and not key.startswith(SPEC_PARTS)]
    return [f"{key}={given[key]}" for key in sorted(keys)]


def _with_spec(
    environment: Mapping[str, str], given: Mapping[str, str], prefix: str
) -> Mapping[str, str]:
    """The environment with the spec whose parts are values of `given`, `prefix` and a number."""
    found = {key[len(prefix) :] for key in given if key.startswith(prefix)}
    if not found:
        return environment
    if found != {str(number) for number in range(len(found))}:
        where = "hyperparameters" if prefix == SPEC_PARTS else "variables"
        raise JobError(
            f"{where}: expected {prefix}0 and so on, without gaps, got "
            f"{', '.join(f'{prefix}{part}' for part in sorted(found))}"
        )
    parts = (given[f"{prefix}{number}"] for number in range(len(found)))
    return {**environment, "SEGADAPT_SPEC_BASE64": "".join(parts)}


def _spec_channel(folder: Path) -> str | None:
    channel = folder / "input/data/spec"
    files = sorted([*channel.glob("*.yaml"), *channel.glob("*.yml")])
    if len(files) > 1:
        raise JobError(f"{channel}: expected one job spec, got {', '.join(f.name for f in files)}")
    return str(files[0]) if files else None


def _network(resources: Mapping[str, Any]) -> dict[str, str]:
    """The variables with which nodes reach one another; those that users set come before them."""
    if len(resources["hosts"]) == 1:
        return {}
    interface = resources.get("network_interface_name")
    found = {name: interface for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") if interface}
    if str(resources.get("current_instance_type")).startswith(WITH_EFA):
        found["FI_PROVIDER"] = "efa"
    return found


def _channels(config: Path, root: Path) -> list[str]:
    found = []
    for name, how in _read(config / "inputdataconfig.json").items():
        if isinstance(how, dict) and how.get("TrainingInputMode") == "Pipe":
            raise JobError(
                f"channel {name}: expected the input mode File or FastFile, got Pipe, which "
                "cannot be read in random order",
                fix=f"give the channel {name} the input mode FastFile",
            )
        if name in (*CHANNELS, *FILE_CHANNELS):
            found.append(channel_override(name, str(root / "opt/ml/input/data" / name)))
    checkpoints = _read(config / "checkpointconfig.json").get("LocalPath")
    if checkpoints:
        folder = root / str(checkpoints).lstrip("/")
        _check_writable(folder)
        found.append(f"{CHANNELS['checkpoints']}={folder}")
    return found


def _check_writable(checkpoints: Path) -> None:
    if not _writable(checkpoints):
        raise JobError(
            f"{checkpoints}: expected a folder that uid {os.getuid()} may write to, as "
            "SageMaker mirrors the checkpoints from there, got one of another user",
            fix="let the image run as root (USER root, step 3 of docs/platforms/sagemaker.md), or "
            "leave checkpoint_uri out of the profile",
        )
