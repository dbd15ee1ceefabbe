"""Exit codes of jobs, for platforms that show them as they were."""

from adapt.errors import Interrupted
from adapt.platforms.platform import JobStatus

SIGKILL, SIGTERM = 128 + 9, 128 + 15

MEMORY_FIX = (
    "raise memory_gb of the profile, or lower stream.memory_gb, stream.decoded_mb, stream.threads, "
    "or batch_size of source and target"
)
_MEANINGS = {1: "a bug", 2: "job spec", 3: "storage", 4: "data"}


def ended_with(job: str, code: int, raised: str = "memory_gb or grace_s") -> JobStatus:
    """The status of a job that ended with `code`; `raised` are the keys of the profile to raise
    where it may have been killed for memory or time."""
    if code == 0:
        return JobStatus(job, "done", "", code)
    if code == Interrupted.exit_code:
        return JobStatus(job, "interrupted", "saved; submit it again to resume", code)
    if code == SIGTERM:
        return JobStatus(job, "stopped", "stopped before it began", code)
    if code == SIGKILL:
        detail = (
            "killed: out of memory, out of grace, or by hand. Fix: submit it again, which resumes "
            f"from its last checkpoint; raise {raised} of the profile"
        )
        return JobStatus(job, "failed", detail, code)
    meaning = _MEANINGS.get(code, "see docs/reliability.md")
    return JobStatus(job, "failed", f"{meaning}; see the end of its log", code)
