"""Slurm's facts of nodes: below srun, in the batch shell, below a wrong srun."""

from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.places import find_place
from adapt.places.slurm import first_host

JOB = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NODEID": "0"}
STEP = {
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
}


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node07", "node07"), ("node[07-09,12],other", "node07"), ("a,b", "a"), ("", None),
     ("rack[1-2]n[3-4]", "rack1n3"), ("gpu[3]-ib,x", "gpu3-ib")],
)  # fmt: skip
def test_the_first_host_of_a_list(hosts: str, first: str | None) -> None:
    assert first_host(hosts) == first


def test_outside_of_a_step_a_process_is_alone(tmp_path: Path) -> None:
    """The batch shell of two nodes is one process: nobody would meet it."""
    place = find_place(JOB, tmp_path)
    assert (place.platform, place.num_nodes, place.node) == ("slurm", 1, 0)
    by_hand = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a"}
    place = find_place(JOB | by_hand | {"PET_MASTER_PORT": "1234"}, tmp_path)
    assert (place.num_nodes, place.node, place.master_addr) == (2, 1, "a")
    assert place.master_port == 1234


def test_several_processes_a_node_would_each_train_alone(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"SLURM_STEP_NUM_TASKS: expected 2, .*--ntasks-per-node=1"):
        find_place(JOB | STEP | {"SLURM_STEP_NUM_TASKS": "16"}, tmp_path)
    with pytest.raises(JobError, match="WORLD_SIZE: expected torchrun's own"):
        find_place(JOB | {"RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}, tmp_path)


def test_jobs_that_share_a_node_meet_at_different_ports_and_scratch_is_the_jobs(
    tmp_path: Path,
) -> None:
    one, two = (find_place(JOB | STEP | {"SLURM_JOB_ID": str(n)}, tmp_path) for n in (41, 42))
    assert one.master_port != two.master_port and one.master_port < 32_768
    assert find_place(JOB | {"SLURM_TMPDIR": "/disk/7"}, tmp_path).scratch_dir == Path(
        "/disk/7/segadapt"
    )
