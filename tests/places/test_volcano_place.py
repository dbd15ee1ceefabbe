"""Volcano jobs, and ranks of launchers that no place knows: no pod trains alone."""

from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.places import find_place
from tests.places.test_places import POD, VOLCANO

PLUGIN = POD | {
    "MASTER_ADDR": "p-master-0.p",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "3",
    "VC_MASTER_HOSTS": "p-master-0.p",
    "VC_MASTER_NUM": "1",
    "VC_WORKER_HOSTS": "p-worker-0.p,p-worker-1.p",
    "VC_WORKER_NUM": "2",
}
"""As Volcano's own examples of its plugin pytorch, which forces the plugin svc."""


@pytest.mark.parametrize("index", [{}, {"VC_TASK_INDEX": "1", "VK_TASK_INDEX": "1"}])
@pytest.mark.parametrize("renamed", [False, True])
def test_volcanos_plugin_pytorch_numbers_master_and_workers(
    renamed: bool, index: dict[str, str], tmp_path: Path
) -> None:
    """With and without the plugin env; VC_TASK_INDEX counts within a task."""
    given = PLUGIN | index
    if renamed:
        given = {name.replace("VC_MASTER", "VC_CHIEF"): text for name, text in given.items()}
    for rank in (0, 2):
        place = find_place(given | {"RANK": str(rank)}, tmp_path)
        assert (place.platform, place.num_nodes, place.node) == ("volcano", 3, rank)
        assert (place.master_addr, place.master_port) == ("p-master-0.p", 23456)
        assert (place.rank, place.num_ranks) == (0, 1)


BY_TASKS = {name: text for name, text in PLUGIN.items() if name.startswith("VC_")} | POD


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (PLUGIN, "RANK: expected a pod of the plugin pytorch's master or workers, got one of"),
        (
            PLUGIN | {"RANK": "0", "VC_MASTER_HOSTS": "p-master-0.p,p-master-1.p"},
            "tasks: expected one master, .* got p-master-0.p,p-master-1.p. Fix: set replicas: 1",
        ),
        (BY_TASKS | {"VC_TASK_INDEX": "0"}, "tasks: expected one task, got master, worker. Fix: g"),
        (POD | VOLCANO | {"VC_TASK_INDEX": ""}, "VC_TASK_INDEX: expected a whole number"),
        (
            {name: text for name, text in (POD | VOLCANO).items() if name != "VC_TASK_INDEX"},
            "VC_TASK_INDEX: expected the number of this pod, got nothing. Fix: add the plugin env",
        ),
    ],
)
def test_volcano_jobs_whose_pods_would_train_alone_are_refused(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=said):
        find_place(given, tmp_path)


@pytest.mark.parametrize("where", [{}, POD])
def test_another_launchers_ranks_are_refused(where: dict[str, str], tmp_path: Path) -> None:
    """A training operator before PET_ variables, mpirun, DeepSpeed's launcher."""
    given = where | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "first"}
    with pytest.raises(JobError, match="WORLD_SIZE: expected torchrun's own, or none, got 2 of an"):
        find_place(given, tmp_path)
    assert find_place(given | {"WORLD_SIZE": "1"}, tmp_path).num_nodes == 1
    said = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "first"}
    assert find_place({**given, **said}, tmp_path).num_nodes == 2
