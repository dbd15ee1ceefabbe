"""A strict double of SkyPilot's command `sky`: it takes the words and answers in the forms of
SkyPilot 0.14.1, keeps its jobs in a folder, and refuses everything else."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

COLOUR, PLAIN = "\x1b[2m", "\x1b[0m"
STARTING = f"{COLOUR}Failed to connect to SkyPilot API server at http://127.0.0.1:46580. "
NOISE = f"{STARTING}Starting a local server.{PLAIN}"
NO_JOBS = "sky.exceptions.ClusterNotUpError: No in-progress managed jobs."
TABLE = """\
Considered resources (1 node):
----------------------------------------------------------------------
 INFRA                 INSTANCE    vCPUs  Mem(GB)  GPUS    COST ($)  CHOSEN
----------------------------------------------------------------------
 AWS[Spot](us-east-1a) p4d.24x     96     1152     A100:8  9.80      ✔
 GCP[Spot]             a2-high-8   96     680      A100:8  11.7
----------------------------------------------------------------------
"""
TASK: dict[str, Any] = {
    "name": str,
    "num_nodes": int,
    "resources": {
        "infra": str,
        "accelerators": dict,
        "cpus": str,
        "memory": str,
        "disk_size": int,
        "disk_tier": str,
        "network_tier": str,
        "use_spot": bool,
        "image_id": str,
        "job_recovery": {
            "strategy": str,
            "max_restarts_on_errors": int,
            "recover_on_exit_codes": list,
        },
        "labels": {str: str},
        "priority": int,
    },
    "envs": {str: str},
    "secrets": {str: (str, type(None))},
    "setup": str,
    "run": str,
    "config": {
        "docker": {"run_options": list},
        "kubernetes": {"pod_config": dict},
        "gcp": dict,
        "hooks": list,
    },
}
"""The part of SkyPilot's schema of a task that our tasks use: keys, and types of their values."""


def faults(found: Any, schema: Any = TASK, where: str = "task") -> list[str]:
    """What the schema has against a task."""
    if not isinstance(schema, dict):
        return [] if isinstance(found, schema) else [f"{where}: {found!r}"]
    if not isinstance(found, dict):
        return [f"{where}: {found!r}"]
    any_name = schema.get(str)
    unknown = [f"{where}.{key}" for key in found if any_name is None and key not in schema]
    known = {key: value for key, value in found.items() if any_name is not None or key in schema}
    for key, value in known.items():
        unknown += faults(value, any_name or schema[key], f"{where}.{key}")
    return unknown


def installed(folder: Path) -> dict[str, str]:
    """An environment in which `sky` is this double, with its jobs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "sky"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder} "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}


def set_job(folder: Path, job: int, **fields: Any) -> None:
    """Change the record of a job."""
    records = jobs_in(folder)
    records[job - 1] |= fields
    (folder / "jobs.json").write_text(json.dumps(records))


def jobs_in(folder: Path) -> list[dict[str, Any]]:
    """The records of all jobs."""
    path = folder / "jobs.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def main(folder: Path, words: list[str]) -> int:
    with (folder / "words").open("a") as file:
        file.write(json.dumps(words) + "\n")
    if (folder / "fail").exists():
        code, _, said = (folder / "fail").read_text().partition(" ")
        print(said, file=sys.stderr)
        return int(code)
    match words:
        case ["--version"]:
            print("skypilot, version 0.14.1")
            return 0
        case ["launch", "--dryrun", "--yes", path]:
            _read_task(path)
            print(TABLE)
            return 0
        case ["jobs", "launch", "--yes", "--detach-run", *secrets, path]:
            return _launch(folder, secrets, path)
        case ["jobs", "queue", "--all", "--verbose", *refresh, "--output", "json"]:
            assert refresh in ([], ["--refresh"])
            print(NOISE)
            records = jobs_in(folder)
            if refresh:
                (folder / "stopped").unlink(missing_ok=True)
            if not records or (folder / "stopped").exists():
                print(NO_JOBS, file=sys.stderr)
                return 1
            print(json.dumps(records[::-1], indent=2))
            return 0
        case ["jobs", "logs", "--follow" | "--no-follow", "--tail", "0", number]:
            return _logs(folder, int(number), words[2] == "--follow")
        case ["jobs", "cancel", "--yes", number]:
            set_job(folder, int(number), status="CANCELLING")
            return 0
    print(f"Error: No such option: {words}", file=sys.stderr)
    return 2


def _read_task(path: str) -> dict[str, Any]:
    task = yaml.safe_load(Path(path).read_text())
    assert faults(task) == [], faults(task)
    return dict(task)


def _launch(folder: Path, secrets: list[str], path: str) -> int:
    task, names = _read_task(path), secrets[1::2]
    assert secrets[::2] == ["--secret"] * len(names) and list(task.get("secrets", {})) == names
    for name in names:
        if name not in os.environ:
            print(f"Error: {name} is not set in local environment.", file=sys.stderr)
            return 2
    records = jobs_in(folder)
    made = {"job_id": len(records) + 1, "job_name": task["name"], "status": "PENDING"}
    records.append(made | {"recovery_count": 0, "failure_reason": None, "details": None})
    (folder / "jobs.json").write_text(json.dumps(records))
    print(f"Managed Job ID: {COLOUR}{made['job_id']}{PLAIN}")
    return 0


def _logs(folder: Path, number: int, follow: bool) -> int:
    """Streams of `logs.N.1`, `logs.N.2` and so on, one a call; with `follow` the job ends after the
    last one. `break` at the end of one is a stream that broke off."""
    streams = sorted(folder.glob(f"logs.{number}.*"))
    stream = streams[0]
    if follow and len(streams) > 1:
        text = stream.read_text()
        stream.unlink()
    else:
        text = stream.read_text()
        if follow:
            set_job(folder, number, status="SUCCEEDED")
    broken = text.endswith("break\n")
    print(text.removesuffix("break\n"), end="", flush=True)
    if broken:
        print("requests.exceptions.ConnectionError: Connection aborted.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
