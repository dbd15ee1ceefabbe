"""Findings of `check` about a cluster: what a profile asks for and the cluster lacks."""

import re
from collections.abc import Iterator, Mapping
from shlex import quote

from adapt.platforms.platform import Finding, Request
from adapt.platforms.slurm.job_status import facts_of
from adapt.platforms.slurm.profile import SlurmProfile
from adapt.platforms.slurm.refusals import refusal_of
from adapt.platforms.slurm.runtimes import RUNTIMES
from adapt.platforms.slurm.shell import Shell


def findings(
    shell: Shell, profile: SlurmProfile, request: Request, environment: Mapping[str, str]
) -> Iterator[Finding]:
    """Slurm itself, the partition and its limits, the folder, the runtime, the secrets; last,
    whether the controller would take the script (`sbatch --test-only`)."""
    version = shell.run("sinfo --version").text.strip()
    yield Finding("slurm", True, f"{version} on {shell.where}")
    yield from _of_partition(shell, profile)
    yield _of_folder(shell, profile)
    runtime = RUNTIMES[profile.runtime]
    setup = "\n".join(profile.setup)
    found = shell.run(f"{setup}\n{{ {runtime.present(profile)}; }} >/dev/null 2>&1 || exit 1\n")
    seen = f"{profile.image} on {shell.where}"
    yield Finding(
        profile.runtime, found.code == 0, seen if found.code == 0 else f"not there: {seen}",
        runtime.fix,
    )  # fmt: skip
    for name in request["secrets"]:
        said = "set" if environment.get(name) else "not set"
        yield Finding(f"secret {name}", said == "set", said, f"export {name}=...")
    yield _of_script(shell, request)


def _of_partition(shell: Shell, profile: SlurmProfile) -> Iterator[Finding]:
    lines = shell.run("scontrol -o show partition").text.splitlines()
    partitions = [facts_of(line) for line in lines if line.startswith("PartitionName=")]
    wanted = profile.partition
    fits = [
        one for one in partitions
        if (one.get("Default") == "YES" if wanted is None else one["PartitionName"] == wanted)
    ]  # fmt: skip
    names = ", ".join(one["PartitionName"] for one in partitions) or "none"
    if not fits:
        missing = "no default partition" if wanted is None else f"no partition {wanted}"
        yield Finding("partition", False, f"{missing}", f"name one of: {names}")
        return
    facts = fits[0]
    is_up = facts.get("State") == "UP"
    yield Finding(
        "partition", is_up, f"{facts['PartitionName']} is {facts.get('State', 'UP').lower()}, "
        f"{facts.get('TotalNodes', '?')} nodes", f"wait, or take another of: {names}",
    )  # fmt: skip
    yield from _of_limits(facts, profile)
    if profile.gpus:
        yield _of_gpus(shell, profile, facts["PartitionName"])


def _of_limits(facts: Mapping[str, str], profile: SlurmProfile) -> Iterator[Finding]:
    most = minutes_of(facts.get("MaxTime", "UNLIMITED"))
    found = f"{profile.max_hours:g} h" + (f" of {most / 60:g}" if most else ", no limit")
    fits = most is None or profile.minutes <= most
    yield Finding(
        "max_hours", fits, found, f"set max_hours: {(most or 0) / 60:g}; the job is queued again"
    )
    nodes = facts.get("MaxNodes", "UNLIMITED")
    if nodes.isdigit():
        yield Finding(
            "nodes", profile.nodes <= int(nodes), f"{profile.nodes} of {nodes}",
            f"set nodes: {nodes} or lower",
        )  # fmt: skip


def _of_gpus(shell: Shell, profile: SlurmProfile, partition: str) -> Finding:
    """By the generic resources (GRES) of the partition's nodes."""
    offered = shell.run(f"sinfo -h -p {quote(partition)} -o %G").text.split()
    most = max((_gpus_in(text, profile.gpu_type) for text in offered), default=0)
    kind = f" of type {profile.gpu_type}" if profile.gpu_type else ""
    seen = ", ".join(sorted(set(offered) - {"(null)"})) or "none"
    return Finding(
        "gpus", most >= profile.gpus,
        f"{profile.gpus}{kind}; nodes of {partition} have GRES {seen}",
        "take gpus and gpu_type from these, another partition, or gpus: 0",
    )  # fmt: skip


def _gpus_in(gres: str, kind: str | None) -> int:
    """The GPUs in a list of generic resources, as gpu:a100:4(S:0-1),gpu:t4:2; of one type, if
    `kind` names it, else of all."""
    found = re.findall(r"gpu(?::([A-Za-z_][\w.-]*))?:(\d+)", gres)
    return sum(int(number) for name, number in found if kind is None or name == kind)


def _of_folder(shell: Shell, profile: SlurmProfile) -> Finding:
    folder = quote(profile.folder)
    answer = shell.run(f"mkdir -p {folder} && test -w {folder} || exit 1")
    fix = "name a folder of yours on a file system that all nodes share"
    seen = "can be written" if answer.code == 0 else "cannot be written"
    return Finding("folder", answer.code == 0, f"{profile.folder} {seen}", fix)


def _of_script(shell: Shell, request: Request) -> Finding:
    program = f"cd /\nsbatch --test-only <<'SEGADAPT_END'\n{request['script']}\nSEGADAPT_END\n"
    answer = shell.run(program)
    if answer.code == 0:
        said = answer.errors.strip().splitlines()
        shown = said[-1].removeprefix("sbatch: ") if said else "taken"
        return Finding("sbatch --test-only", True, shown)
    refusal = refusal_of(answer.errors)
    return Finding("sbatch --test-only", False, f"{refusal.key}: {refusal.found}", refusal.fix)


def minutes_of(limit: str) -> float | None:
    """Slurm's [DAYS-]HOURS:MINUTES:SECONDS, or MINUTES[:SECONDS], in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", limit)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(one or 0) for one in found.groups())
    if found[2] and not found[4]:  # MINUTES:SECONDS
        hours, minutes, seconds = 0, hours, minutes
    return days * 1440 + hours * 60 + minutes + seconds / 60
