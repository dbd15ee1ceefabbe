"""Huawei ModelArts, training jobs of the second version: a job and a profile -> the request.

The request is the body of `POST /v2/PROJECT/training-jobs` (the API's reference of training jobs).
In place of a secret it has the variable's name as `{"from_environment": NAME}`, which the client
replaces while it sends: ModelArts has no store of secrets. Channels are variables, so that nothing
is appended to the command.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.config.strict_yaml import with_overrides
from adapt.errors import JobError
from adapt.places import CHANNELS, FILE_CHANNELS, Place
from adapt.platforms.modelarts.folders import VOLUMES, Inputs, MountedFolder, obs_folder
from adapt.platforms.modelarts.profile import ModelArtsProfile
from adapt.platforms.platform import Request, Submission
from adapt.platforms.reachable import unreachable
from storage.config import fitting_key

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

NAME_PREFIX = "segadapt-"
COMMAND = "python /opt/segadapt/entrypoint.py run"
LOCAL = "/home/ma-user/modelarts"

INPUTS = {name: {**CHANNELS, **FILE_CHANNELS}[name] for name in Inputs.model_fields}
"""Channels that are read, and their key of the job spec."""

OFFERS = {
    "checkpoint.uri": "outputs.checkpoints in the profile",
    **{key: f"inputs.{name} in the profile" for name, key in INPUTS.items()},
}
"""The profile's keys that make a URI of the job spec reachable for the nodes."""

MAX_VARIABLES = 100
MAX_NAME, MAX_KEY, MAX_VALUE = 64, 8192, 4096


def request(submission: Submission, profile: ModelArtsProfile) -> Request:
    """The body that creates the training job.

    Raises `JobError` for what ModelArts would refuse, or what could not run there.
    """
    name = submission.name
    name = name if name.startswith(NAME_PREFIX) else NAME_PREFIX + name
    if re.fullmatch(r"[A-Za-z0-9_-]+", name) is None or len(name) > MAX_NAME:
        raise JobError(f"name: expected up to {MAX_NAME} letters, digits, _ and -, got {name!r}")
    return {
        "kind": "job",
        "metadata": {
            "name": name,
            "description": f"SegAdapt run {submission.job.name}"[:256],
            "workspace_id": profile.workspace_id,
            **annotations(profile),
        },
        "algorithm": {
            "engine": {"image_url": profile.image},
            "command": COMMAND,
            "environments": _variables(submission, profile),
            **_filled(
                inputs=_inputs(submission.job, profile), outputs=_outputs(submission.job, profile)
            ),
        },
        "spec": spec_of(profile),
    }


def annotations(profile: ModelArtsProfile) -> dict[str, Any]:
    """The metadata that says how often a job is started again."""
    if profile.restarts == 0:
        return {}
    found = {"fault-tolerance/job-retry-num": str(profile.restarts)}
    if profile.restart_always:
        found["fault-tolerance/job-unconditional-retry"] = "true"
    if profile.restart_hanging:
        found["fault-tolerance/hang-retry"] = "true"
    return {"annotations": found}


def _variables(submission: Submission, profile: ModelArtsProfile) -> dict[str, Any]:
    variables = submission.environment(profile, profile.grace_s)
    check_variables(variables, profile)
    if profile.spec_uri is None:
        variables["SEGADAPT_SPEC_BASE64"] = _packed_spec(submission)
    secrets = {name: {"from_environment": name} for name in profile.secrets}
    found = {**variables, **secrets}
    if len(found) > MAX_VARIABLES:
        raise JobError(
            f"environment: expected at most {MAX_VARIABLES} variables with secrets and the job's "
            f"own, got {len(found)}"
        )
    _check_stores(submission.job, profile, found)
    return found


def _packed_spec(submission: Submission) -> str:
    text = submission.spec_base64()
    if len(text) > MAX_VALUE:
        raise JobError(
            f"SEGADAPT_SPEC_BASE64: expected at most {MAX_VALUE} characters, got {len(text)} of "
            "the job spec",
            "put the resolved spec (`check SPEC` prints it) into a folder of its own in OBS and "
            "name that in the profile: spec_uri: obs://BUCKET/FOLDER",
        )
    return text


def check_variables(variables: Mapping[str, str], profile: ModelArtsProfile) -> None:
    """Raise `JobError` for names and values that ModelArts would refuse."""
    for name in (*variables, *profile.secrets):
        where = f"secrets: {name}" if name in profile.secrets else f"environment.{name}"
        if len(name) > MAX_KEY:
            raise JobError(f"{where[:80]}: expected at most {MAX_KEY} characters, got {len(name)}")
        if name.startswith(("MA_", "VC_")):
            raise JobError(
                f"{where}: expected a name that does not start with MA_ or VC_, which are "
                f"ModelArts' own, got {name}",
                "choose another",
            )
        if name in (*CHANNELS, *FILE_CHANNELS, "model", "spec"):
            raise JobError(
                f"{where}: expected another name than a channel's, which inputs and outputs set, "
                f"got {name}",
                "remove it",
            )
    for name, value in variables.items():
        _check_value(f"environment.{name}", name, value, profile)


def _check_value(where: str, name: str, value: str, profile: ModelArtsProfile) -> None:
    if name in profile.secrets:
        raise JobError(
            f"{where}: expected it in environment or secrets, got both",
            "remove it from environment",
        )
    if len(value) > MAX_VALUE:
        raise JobError(f"{where}: expected at most {MAX_VALUE} characters, got {len(value)}")
    if re.search(r"\$[A-Za-z_{(]", value):
        raise JobError(
            f"{where}: expected no variables, which ModelArts does not replace, got {value!r}"
        )


def _check_stores(job: "JobSpec", profile: ModelArtsProfile, variables: Mapping[str, Any]) -> None:
    """Raise `JobError` where the job could not reach its data or would lose its checkpoints."""
    from adapt.spec.loading import parse_spec
    from adapt.trainer.problems import SECRETS, problems

    given = dict.fromkeys(variables, "given")
    there = parse_spec(with_overrides(job.resolved(), _overrides(job, profile)), job.name)
    for error in problems(there, Place(profile.platform, given, Path()), SECRETS):
        raise JobError(
            f"{error.problem} (on ModelArts)",
            "name it in the profile's secrets, or let the agency transfer the data by inputs and "
            "outputs",
        ) from error
    for key, uri in there.uris().items():
        if uri.startswith(("obs://", "s3://")) and not _has_keys(there, uri, given):
            raise JobError(
                f"{key}: {uri} needs keys, and a job on ModelArts has none",
                "let the agency transfer it by inputs, outputs or volumes of the profile, or name "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in its secrets",
            )
    lines = unreachable(job, profile, OFFERS, [volume.path for volume in profile.volumes])
    if lines:
        raise JobError("\n".join(lines))


def _has_keys(job: "JobSpec", uri: str, variables: Mapping[str, str]) -> bool:
    key = fitting_key(uri, job.stores)
    named = key is not None and job.stores[key].access_key_env is not None
    return named or "AWS_ACCESS_KEY_ID" in variables


def _overrides(job: "JobSpec", profile: ModelArtsProfile) -> list[str]:
    """The keys of the job spec that channels replace (`adapt.places.modelarts`)."""
    names = [channel["name"] for channel in _inputs(job, profile)]
    found = [f"{CHANNELS[name]}={LOCAL}/inputs/{name}_0" for name in names if name in CHANNELS]
    uris = job.uris()
    for name, key in FILE_CHANNELS.items():
        if name in names:
            found.append(f"{key}={LOCAL}/inputs/{name}_0/{posixpath.basename(uris[key])}")
    if profile.outputs.checkpoints:
        found.append(f"{CHANNELS['checkpoints']}={LOCAL}/outputs/checkpoints_0")
    return found


def _inputs(job: "JobSpec", profile: ModelArtsProfile) -> list[dict[str, Any]]:
    found = []
    for name, key in INPUTS.items():
        uri = getattr(profile.inputs, name)
        if uri is None:
            continue
        if key not in job.uris():
            what = key if name in FILE_CHANNELS else f"a section {name}"
            raise JobError(
                f"inputs.{name}: expected {what} in the job spec, got none",
                "remove it from the profile",
            )
        found.append(_channel(name, obs_folder(uri)))
    if profile.spec_uri is not None:
        found.append(_channel("spec", obs_folder(profile.spec_uri)))
    return found


def _outputs(job: "JobSpec", profile: ModelArtsProfile) -> list[dict[str, Any]]:
    found = []
    for name in ("checkpoints", "model"):
        uri = getattr(profile.outputs, name)
        if uri is None:
            continue
        if re.fullmatch(r"[\w.-]+", job.name, re.ASCII) is None:
            raise JobError(
                f"name: expected letters, digits, _ . and - for a run with outputs.{name}, "
                f"got {job.name!r}"
            )
        # a folder for each run: ModelArts refuses two jobs that write to the same one
        found.append(_channel(name, f"{obs_folder(uri)}{job.name}/"))
    if profile.outputs.checkpoints and profile.predownload:
        found[0]["prefetch_to_local"] = True
    return found


def _channel(name: str, folder: str) -> dict[str, Any]:
    return {"name": name, "access_method": "env", "remote": {"obs": {"obs_url": folder}}}


def spec_of(profile: ModelArtsProfile) -> Request:
    """Machines, mounts, limits and messages of a job."""
    log_uri, hours, notification = profile.log_uri, profile.max_hours, profile.notification
    return _filled(
        resource=_filled(
            flavor_id=profile.flavor_id, pool_id=profile.pool_id, node_count=profile.nodes
        ),
        volumes=[_volume(volume) for volume in profile.volumes],
        log_export_path=log_uri and {"obs_url": obs_folder(log_uri)},
        auto_stop=hours and {"time_unit": "HOURS", "duration": hours},
        schedule_policy=_filled(priority=profile.priority, preemptible=profile.preemptible),
        notification=notification and notification.model_dump(mode="json"),
    )


def _volume(volume: MountedFolder) -> dict[str, Any]:
    row = VOLUMES[volume.kind]
    shared = {"read_only": volume.read_only} if row.shared else {}
    return {volume.kind: {row.source_key: volume.source, **shared, "local_path": volume.path}}


def _filled(**parts: Any) -> Request:
    """The parts that the profile sets."""
    return {key: value for key, value in parts.items() if value not in (None, [], {})}
