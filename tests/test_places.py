"""Places: what the environment says."""

from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.places import find_place

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}


def test_an_empty_environment_is_local_and_leads() -> None:
    place = find_place({})
    assert (place.platform, place.rank, place.num_ranks, place.leader) == ("local", 0, 1, True)
    assert place.tracking_uri is None


def test_torchruns_ranks_are_taken() -> None:
    place = find_place(TORCHRUN)
    assert (place.rank, place.num_ranks) == (5, 8)
    assert (place.local_rank, place.local_ranks) == (1, 4)
    assert (place.node, place.num_nodes, place.leader) == (1, 2, False)


def test_pod_level_ranks_are_not_taken_for_process_ranks() -> None:
    place = find_place({"RANK": "3", "WORLD_SIZE": "4"})
    assert (place.rank, place.num_ranks) == (0, 1)


def test_the_environment_names_scratch_and_mlflow() -> None:
    place = find_place({"SEGADAPT_SCRATCH_DIR": "/cache", "MLFLOW_TRACKING_URI": "http://m:5000"})
    assert place.scratch_dir == Path("/cache") and place.tracking_uri == "http://m:5000"


PET = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "4",
    "PET_MASTER_ADDR": "first",
    "PET_MASTER_PORT": "1234",
}


def test_nodes_come_from_torchruns_variables() -> None:
    place = find_place(PET)
    assert (place.node, place.num_nodes, place.processes) == (1, 2, 4)
    assert (place.master_addr, place.master_port) == ("first", 1234)
    assert not place.launched and (place.rank, place.num_ranks) == (0, 1)


def test_ranges_of_nodes_are_refused() -> None:
    assert find_place(PET | {"PET_NNODES": "2:2"}).num_nodes == 2
    with pytest.raises(JobError, match=r"PET_NNODES: expected a number of nodes, found .* '1:4'"):
        find_place(PET | {"PET_NNODES": "1:4"})


def test_words_are_no_numbers_of_processes() -> None:
    assert find_place(PET | {"PET_NPROC_PER_NODE": "auto"}).processes is None
    assert find_place({}).master_port == 29500


def test_only_a_rank_of_ours_has_a_status_folder() -> None:
    folder = {"SEGADAPT_STATUS_DIR": "/status"}
    assert find_place(folder).status_dir is None
    assert find_place(TORCHRUN).status_dir is None
    assert find_place(TORCHRUN | folder).status_dir == Path("/status")


def test_the_failure_file_is_where_the_platform_looks(tmp_path: Path) -> None:
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert find_place(kubernetes, tmp_path).failure_file is None
    config = tmp_path / "opt/ml/input/config/resourceconfig.json"
    config.parent.mkdir(parents=True)
    config.touch()
    assert find_place({}, tmp_path).failure_file == tmp_path / "opt/ml/output/failure"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/termination-log").touch()
    assert find_place(kubernetes, tmp_path).failure_file == tmp_path / "dev/termination-log"
