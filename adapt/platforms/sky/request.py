"""The request for a managed job: a task of SkyPilot, complete, as `sky jobs launch` reads it from a
file. Pure, from a job and a profile; secrets by name.

Every key is one of SkyPilot 0.14.1's own schema, by which the tests check it.
"""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from adapt.errors import Interrupted, JobError
from adapt.platforms.gpus import check_gpus
from adapt.platforms.platform import Request, Submission
from adapt.platforms.prediction import Sliced, check_one_gpu, check_one_node, check_uris
from adapt.platforms.reachable import unreachable
from adapt.platforms.sky.profile import SkyProfile, gibibytes
from adapt.platforms.sky.script import HOOK, run_script
from adapt.platforms.spec_variable import spec_variable

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

_AS_ROOT = {"spec": {"securityContext": {"runAsUser": 0}}}
"""SkyPilot installs ssh and its runtime in the image, which runs as another user otherwise."""


def request(submission: Submission, profile: SkyProfile) -> Request:
    """The task. Raises `JobError` where the job spec is too long for a variable, or names paths,
    which the machines do not have, and for GPUs that the image cannot run on."""
    _check_paths(submission.job, profile)
    spec = spec_variable("SPEC", submission.spec_base64(), "shorten it: classes take most")
    variables = submission.environment(profile, profile.grace_s) | spec
    return _task(submission.name, profile, variables, ["run"])


def prediction_requests(prediction: Sliced, profile: SkyProfile) -> dict[str, Request]:
    """The tasks of a set by their jobs' names, one for each slice. Raises `JobError` for URIs that
    the machines do not have, and for nodes or GPUs that a slice would not use."""
    check_uris(prediction, "stores", [], [])
    check_one_gpu(profile)
    check_one_node(profile)
    variables = prediction.environment(profile, profile.grace_s) | prediction.spec_variable()
    names = {number: prediction.name_of(number) for number in prediction.slices}
    return {
        name: _task(name, profile, variables, prediction.arguments(number))
        for number, name in names.items()
    }


def _task(
    name: str, profile: SkyProfile, variables: dict[str, str], arguments: list[str]
) -> Request:
    for one in profile.accelerators:
        check_gpus(profile, one)
    setup = {"setup": "".join(f"{line}\n" for line in profile.setup)} if profile.setup else {}
    secrets = {"secrets": dict.fromkeys(profile.secrets)} if profile.secrets else {}
    made = {
        "name": name,
        "num_nodes": profile.nodes,
        "resources": _resources(profile),
        "envs": variables,
        **secrets,
        **setup,
        "run": run_script(name, profile.max_hours, profile.nodes, arguments),
        "config": _config(profile),
    }
    return deepcopy(made)  # tasks that share a part are printed with anchors


def _resources(profile: SkyProfile) -> dict[str, Any]:
    recovery = {"recover_on_exit_codes": [Interrupted.exit_code], "max_restarts_on_errors": 0}
    strategy = {} if profile.recovery is None else {"strategy": profile.recovery}
    known: dict[str, Any] = {
        "infra": profile.infra,
        "accelerators": dict.fromkeys(profile.accelerators, profile.gpus) or None,
        "cpus": None if profile.cpus is None else f"{profile.cpus}+",
        "memory": None if profile.memory_gb is None else f"{gibibytes(profile.memory_gb)}+",
        "disk_size": None if profile.disk_gb is None else gibibytes(profile.disk_gb),
        "use_spot": profile.spot,
        "image_id": f"docker:{profile.image}",
        "job_recovery": {**strategy, **recovery},
        "labels": profile.labels or None,
        "priority": profile.priority,
    }
    return {key: value for key, value in known.items() if value is not None} | profile.resources


def _config(profile: SkyProfile) -> dict[str, Any]:
    hook = {"run": HOOK, "events": ["down", "preemption"], "timeout": profile.grace_s}
    return {
        "docker": {"run_options": ["--user=0", *profile.run_options]},
        "kubernetes": {"pod_config": _AS_ROOT},
        **profile.config,
        "hooks": [hook],
    }


def _check_paths(job: "JobSpec", profile: SkyProfile) -> None:
    lines = unreachable(job, profile, {})
    if lines:
        raise JobError("\n".join(lines), "copy it into a store and name its URI")
