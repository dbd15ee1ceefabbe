"""Places: what the environment says."""

from pathlib import Path

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
