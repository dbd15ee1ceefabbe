"""A connection to a Slurm cluster: sends scripts, reports the state of batch jobs.

A job is known by Slurm's number. Only jobs with SegAdapt's comment are read or changed.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from shlex import quote

from adapt.errors import JobError
from adapt.platforms import following
from adapt.platforms.exit_codes import ended_with
from adapt.platforms.platform import ENDED, Finding, JobStatus, Request
from adapt.platforms.slurm.checks import findings
from adapt.platforms.slurm.job_status import (
    facts_of,
    of_accounting,
    of_controller,
    or_memory,
)
from adapt.platforms.slurm.logs import JobLog
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.refusals import refusal_of
from adapt.platforms.slurm.script import MARK
from adapt.platforms.slurm.shell import Shell

POLL_S, FAR_POLL_S = 2.0, 10.0
"""Between two fetches of a log; the second over ssh."""
SETTLE_S = 30.0
"""Time in which a job that queues itself again can be stopped."""

_CLEAN = r"""
unset $(env | sed -nE 's/^((SBATCH|SRUN|SLURM|SEGADAPT|PET|TORCHELASTIC|PYTHON)_?[A-Za-z0-9_]*)=.*/\1/p' \
    | grep -vx SLURM_CONF) RANK WORLD_SIZE MASTER_ADDR VIRTUAL_ENV
"""  # noqa: E501
"""Variables of the submitter's session that are stronger than a script's options, or that would
become the job's."""

_SUBMIT = """\
mkdir -p {folder} || exit 1
{clean}{secrets}cd {folder} && exec sbatch --parsable <<'SEGADAPT_END'
{script}
SEGADAPT_END
"""

_SHOW = """\
said=$(scontrol -o show job {job} 2>&1) && echo "$said" || case $said in
*'Invalid job id'*)
    sacct -X -n -P -D -j {job} -o State,ExitCode 2>/dev/null | tail -n 1 | sed 's/^/sacct=/'
    test -r {end} && sed 's/^/end=/' {end} ;;
*) echo "$said" >&2; exit 1 ;;
esac
tail -c 4000 {log} 2>/dev/null | grep -Eqi 'exceeded (job )?memory limit|oom.kill' && echo oom=1
exit 0
"""
"""The log is read after the state: Slurm writes why it kills a job before it does."""

_STOP = """\
scontrol update JobId={job} Requeue=0
scancel --state=PENDING {job}
scancel --state=SUSPENDED {job}
scancel --state=RUNNING --batch --signal=TERM {job}
"""

_LIST = """\
for job in $(squeue --me -h --states=all -o '%A %k' | sed -n 's/ {mark}$//p'); do
    scontrol -o show job "$job" 2>/dev/null
done
cd {folder} 2>/dev/null || exit 0
for file in *.end; do test -r "$file" && sed "s/^/end=${{file%.end}} /" "$file"; done
exit 0
"""


def connect(profile: SlurmProfile, environment: Mapping[str, str]) -> "SlurmClient":
    """A client of the cluster whose commands are at `login` of the profile, or here."""
    return SlurmClient(profile, Shell(profile.login, environment), environment)


class SlurmClient:
    """`adapt.platforms.platform.Client` of one cluster."""

    def __init__(self, profile: SlurmProfile, shell: Shell, environment: Mapping[str, str]) -> None:
        self._profile, self._shell, self._environment = profile, shell, environment

    def submit(self, request: Request) -> str:
        """Give the script to sbatch; Slurm's number of the job."""
        secrets = [f"export {name}={quote(self._secret(name))}\n" for name in request["secrets"]]
        answer = self._shell.run(
            _SUBMIT.format(
                folder=quote(request["folder"]),
                clean=_CLEAN,
                secrets="".join(secrets),
                script=request["script"],
            )
        )
        if answer.code:
            refusal = refusal_of(answer.errors)
            raise JobError(f"{refusal.key}: {refusal.found}", refusal.fix)
        return answer.text.strip().partition(";")[0]  # ;CLUSTER

    def status(self, job: str) -> JobStatus:
        """The status of a job."""
        path = f"{self._profile.folder}/{_number(job)}"
        end, log = quote(f"{path}.end"), quote(f"{path}.log")
        answer = self._shell.run(_SHOW.format(job=_number(job), end=end, log=log))
        if answer.code:
            raise JobError(f"JOB: the cluster does not show {job} [{answer.errors.strip()}]")
        found = dict(line.split("=", 1) for line in answer.text.splitlines() if line[:4] != "JobI")
        facts = facts_of(answer.text)
        if "JobState" in facts:
            _check_ours(job, facts)
            return or_memory(of_controller(facts), "oom" in found)
        if found.get("sacct"):
            return or_memory(of_accounting(job, found["sacct"]), "oom" in found)
        if found.get("end", "").isdigit():
            return or_memory(ended_with(job, int(found["end"])), "oom" in found)
        raise JobError(
            f"JOB: the cluster knows no job {job}, and it left nothing in {self._profile.folder}",
            "take a number from `jobs --to PROFILE`; without accounting Slurm forgets jobs",
        )

    def logs(self, job: str, follow: bool) -> Iterator[str]:
        """The lines of a job's log, all nodes', with those of its restarts."""
        log = JobLog(self._shell, f"{self._profile.folder}/{_number(job)}.log")
        self.status(job)
        if not follow:
            return log.new_lines(is_last=True)
        poll_s = POLL_S if self._profile.login is None else FAR_POLL_S
        return following.follow(
            log.new_lines, lambda: self.status(job).state in ENDED, poll_s, settle_polls=1
        )

    def stop(self, job: str) -> None:
        """Take a job out of the queue, or have its script pass SIGTERM on, and never queue it
        again."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            status = self.status(job)
            if status.state in ENDED:
                return
            self._shell.run(_STOP.format(job=_number(job)))
            if not status.detail.startswith("completing") or time.monotonic() > deadline_s:
                return
            time.sleep(1.0)

    def jobs(self) -> Iterable[JobStatus]:
        """The user's jobs with SegAdapt's comment, and those that left a file in the folder, the
        newest first."""
        folder = quote(self._profile.folder)
        lines = self._shell.run(_LIST.format(mark=MARK, folder=folder)).text.splitlines()
        found: dict[str, JobStatus] = {}
        for line in lines:
            if line.startswith("end="):
                number, _, code = line.removeprefix("end=").partition(" ")
                if number not in found and number.isdigit() and code.isdigit():
                    found[number] = ended_with(number, int(code))
            elif "JobState" in (facts := facts_of(line)):
                found[facts["JobId"]] = of_controller(facts)
        return [found[number] for number in sorted(found, key=int, reverse=True)]

    def check(self, request: Request) -> Iterator[Finding]:
        """The cluster, the profile against it, and sbatch's own test; see `slurm.checks`."""
        return findings(self._shell, self._profile, request, self._environment)

    def _secret(self, name: str) -> str:
        value = self._environment.get(name)
        if not value:
            raise JobError(
                f"secrets: expected the variable {name} in this environment, got nothing",
                fix=f"export {name}=..., or remove it from the profile",
            )
        return value


def _number(job: str) -> str:
    if not (job.isascii() and job.isdigit()):
        raise JobError(
            f"JOB: expected the number of a Slurm job, got {job!r}",
            "take one from `jobs --to PROFILE`, or leave --to out for a job submitted from here",
        )
    return job


def _check_ours(job: str, facts: Mapping[str, str]) -> None:
    if facts.get("Comment") != MARK:
        raise JobError(
            f"JOB: expected a job of SegAdapt, got another, {job!r}",
            fix="take a number from `jobs --to PROFILE`",
        )
