"""How a node runs the job's program: a row each for apptainer, pyxis and virtual environments."""

from collections.abc import Callable
from shlex import quote
from typing import NamedTuple

from adapt.platforms.prediction import PROGRAM
from adapt.platforms.reachable import IMAGE
from adapt.platforms.slurm.profile import Bind, SlurmProfile


class Runtime(NamedTuple):
    """The words before the arguments of our program, more options of srun, and a line of sh that
    succeeds where the login node has what it needs, with the fix where it does not."""

    program: Callable[[SlurmProfile], list[str]]
    srun: Callable[[SlurmProfile], list[str]]
    present: Callable[[SlurmProfile], str]
    fix: str


def _apptainer(profile: SlurmProfile) -> list[str]:
    """Its root is read-only, and /tmp the node's."""
    words = ["apptainer", "exec", *(["--nv"] if profile.gpus else [])]
    words += ["--no-home", "--pwd", IMAGE]
    return [*words, *(f"--bind={_bind(one)}" for one in profile.mounts), profile.image, *PROGRAM]


def _bind(mount: Bind) -> str:
    return f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "")


def _pyxis(profile: SlurmProfile) -> list[str]:
    """The folder is mounted too: each node writes there how its ranks ended."""
    mounts = [*(_bind(one) for one in profile.mounts), f"{profile.folder}:{profile.folder}"]
    return [
        f"--container-image={profile.image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={IMAGE}",
        "--no-container-mount-home",
        "--no-container-entrypoint",
    ]


_FINDS = """\
import sys
from importlib.util import find_spec
sys.exit(None in map(find_spec, ("adapt", "timm", "torch")))
"""
"""Finds our packages without the seconds that importing torch takes."""

RUNTIMES = {
    "apptainer": Runtime(
        _apptainer,
        lambda _profile: [],
        lambda profile: f"command -v apptainer && {_file_there(profile.image)}",
        "put `module load apptainer` into setup of the profile, or name a .sif file that is there",
    ),
    "pyxis": Runtime(
        lambda _profile: [*PROGRAM],
        _pyxis,
        lambda _profile: "srun --help | grep -- --container-image",
        "ask the administrators for pyxis, or set runtime: apptainer",
    ),
    "venv": Runtime(
        lambda profile: [f"{profile.image}/bin/python", "-m", "adapt"],
        lambda _profile: [],
        lambda profile: f"{profile.image}/bin/python -c {quote(_FINDS)}",
        "run python -m venv FOLDER && FOLDER/bin/pip install segadapt on a shared file system",
    ),
}
"""By the profile's `runtime`."""


def _file_there(image: str) -> str:
    return f"test -r {quote(image)}" if image.startswith("/") else "true"
