"""The job as the supervisor's child read it, in the status folder.

The supervisor reads no job spec, which takes an import of torch. Where a job fails, this copy names
its run for MLflow; where there is none, the job spec itself was the failure.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapt.spec.job_spec import JobSpec

JOB_FILE = "job.json"


def write_job(folder: Path, job: "JobSpec") -> None:
    """Leave the resolved job for the supervisor; on a full disk there is none."""
    with suppress(OSError):
        (folder / JOB_FILE).write_text(json.dumps(job.resolved()))


def read_job(folder: Path) -> "JobSpec | None":
    """The job of a status folder, if its child got so far as to read it."""
    try:
        values = json.loads((folder / JOB_FILE).read_text())
    except (OSError, ValueError):  # half a file is what a full disk leaves
        return None
    from adapt.spec.loading import parse_spec

    return parse_spec(values, values["name"])
