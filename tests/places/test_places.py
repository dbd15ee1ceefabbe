"""Places: what the environment and the platform's files say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adapt.errors import JobError
from adapt.places import PLACES, find_place, with_arguments

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "job-worker-0.job",
    "MASTER_PORT": "29500",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
VOLCANO = {
    "VC_TASK_INDEX": "1",
    "VC_WORKER_NUM": "2",
    "VC_WORKER_HOSTS": "job-worker-0.job, job-worker-1.job",
}
RESOURCES = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}


class Sample(NamedTuple):
    """What a platform gives, and what must be understood."""

    environment: dict[str, str]
    expected: dict[str, Any]
    files: Mapping[str, str] = {}


SAMPLES = {
    "sagemaker": Sample(
        {"TRAINING_JOB_NAME": "town-1"},
        {"num_nodes": 2, "node": 1, "master_addr": "algo-1", "grace_s": 120, "job": "town-1"},
        {"opt/ml/input/config/resourceconfig.json": json.dumps(RESOURCES)},
    ),
    "modelarts": Sample(
        VOLCANO
        | {"MA_JOB_DIR": "/job", "MA_NUM_HOSTS": "2", "MA_NUM_GPUS": "8", "MA_VJ_NAME": "v"},
        {"num_nodes": 2, "node": 1, "processes": 8, "master_addr": "job-worker-0.job", "job": "v"},
    ),
    "sky": Sample(
        POD
        | {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "4"}
        | {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5", "SKYPILOT_TASK_ID": "sky-managed-1_town_7-0"},
        {"num_nodes": 2, "node": 1, "processes": 4, "master_addr": "10.0.0.4", "grace_s": 30}
        | {"job": "sky-managed-1_town_7-0", "interrupted_code": 75, "failure_file": None},
    ),
    "trainjob": Sample(
        POD
        | {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "auto"}
        | {
            "PET_MASTER_ADDR": "t-node-0-0.t",
            "PET_MASTER_PORT": "1234",
            "JOB_COMPLETION_INDEX": "1",
        },
        {"num_nodes": 2, "node": 1, "processes": None, "master_addr": "t-node-0-0.t"}
        | {"master_port": 1234, "interrupted_code": 75},
    ),
    "pytorchjob": Sample(
        POD
        | {"PET_NNODES": "2", "RANK": "1", "WORLD_SIZE": "16", "PET_NPROC_PER_NODE": "8"}
        | {"MASTER_ADDR": "p-master-0", "PET_MASTER_PORT": "23456"},
        {"num_nodes": 2, "node": 1, "processes": 8, "master_addr": "p-master-0"}
        | {"master_port": 23456, "interrupted_code": 143, "rank": 0, "num_ranks": 1},
    ),
    "volcano": Sample(
        POD | VOLCANO | {"RANK": "1", "WORLD_SIZE": "2"},
        {"num_nodes": 2, "node": 1, "master_addr": "job-worker-0.job", "num_ranks": 1},
    ),
    "indexed_job": Sample(
        POD | {"JOB_COMPLETION_INDEX": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "j-0.j"},
        {"num_nodes": 2, "node": 1, "master_addr": "j-0.j", "master_port": 29500},
    ),
    "pod": Sample(POD, {"num_nodes": 1, "node": 0}),
    "slurm": Sample(
        {"SLURM_JOB_ID": "31007", "SLURM_NODEID": "1", "SLURM_GPUS_ON_NODE": "4"}
        | {"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
        | {"SLURM_STEP_NODELIST": "gpu[07,09]", "SLURM_NNODES": "3"},
        {"num_nodes": 2, "node": 1, "processes": 4, "master_addr": "gpu07", "job": "31007"}
        | {"master_port": 16_007, "interrupted_code": 75},
    ),
    "docker": Sample({}, {"num_nodes": 1, "grace_s": 10}, {".dockerenv": ""}),
    "local": Sample({}, {"num_nodes": 1, "node": 0, "grace_s": 30, "job": None, "spec": None}),
}


def written(files: Mapping[str, str], root: Path) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_place_has_a_sample() -> None:
    assert SAMPLES.keys() == PLACES.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_platform_is_recognised_and_understood(name: str, tmp_path: Path) -> None:
    environment, expected, files = SAMPLES[name]
    place = find_place(environment, written(files, tmp_path))
    assert place.platform == name and not place.launched
    assert {key: getattr(place, key) for key in expected} == expected


@pytest.mark.parametrize("name", SAMPLES)
def test_what_users_say_comes_first(name: str, tmp_path: Path) -> None:
    environment, _, files = SAMPLES[name]
    said = {
        "SEGADAPT_ROOT": str(written(files, tmp_path)),
        "SEGADAPT_SCRATCH_DIR": "/disk",
        "SEGADAPT_GRACE_S": "77",
        "SEGADAPT_JOB": "mine",
        "SEGADAPT_SPEC": "s3://bucket/job.yaml",
        "MLFLOW_TRACKING_URI": "http://m:5000",
    }
    place = find_place(environment | said)
    assert place.platform == name
    assert (place.scratch_dir, place.grace_s, place.job) == (Path("/disk"), 77, "mine")
    assert place.spec == "s3://bucket/job.yaml" and place.tracking_uri == "http://m:5000"


@pytest.mark.parametrize("name", SAMPLES)
def test_torchruns_ranks_are_taken_on_every_platform(name: str, tmp_path: Path) -> None:
    environment, _, files = SAMPLES[name]
    kept = {key: value for key, value in environment.items() if not key.startswith("PET_")}
    said = TORCHRUN | {"SEGADAPT_PLATFORM": name}  # the supervisor had all variables
    place = find_place(kept | said, written(files, tmp_path))
    assert place.platform == name
    assert (place.rank, place.num_ranks) == (5, 8)
    assert (place.local_rank, place.local_ranks) == (1, 4)
    assert (place.node, place.num_nodes, place.leader) == (1, 2, False)


def test_a_spec_in_base64_is_found(tmp_path: Path) -> None:
    place = find_place({"SEGADAPT_SPEC_BASE64": "bmFtZTogYQ=="}, tmp_path)
    assert place.spec == "env:SEGADAPT_SPEC_BASE64"


def test_a_large_disk_at_cache_is_used(tmp_path: Path) -> None:
    assert find_place({}, tmp_path).scratch_dir.name == "segadapt"
    (tmp_path / "cache").mkdir()
    assert find_place({}, tmp_path).scratch_dir == tmp_path / "cache/segadapt"


SAGEMAKER = SAMPLES["sagemaker"].files


def test_sagemakers_hyperparameters_and_channels_are_overrides(tmp_path: Path) -> None:
    config = "opt/ml/input/config"
    given = {
        "train.steps": "500",
        "method.name": '"advent"',
        "sagemaker_program": "no",
        "spec_base64_1": "YQ==",
        "spec_base64_0": "bmFtZTog",
    }
    files = {
        f"{config}/hyperparameters.json": json.dumps(given),
        f"{config}/inputdataconfig.json": json.dumps(
            {"source": {"TrainingInputMode": "FastFile"}, "more": {"TrainingInputMode": "File"}}
        ),
    }
    root = written({**SAGEMAKER, **files}, tmp_path)
    place = find_place({}, root)
    source = f"source.uri={root / 'opt/ml/input/data/source'}"
    assert place.overrides == (source, "method.name=advent", "train.steps=500")
    assert place.spec == "env:SEGADAPT_SPEC_BASE64"
    assert place.environment["SEGADAPT_SPEC_BASE64"] == "bmFtZTogYQ=="
    assert place.model_dir == root / "opt/ml/model"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "hyperparameters.json: expected JSON, got other text: "),
        ('{"spec_base64_0": "a", "spec_base64_2": "b"}', "expected spec_base64_0 and so on"),
        ('{"spec_base64_x": "a"}', "without gaps, got spec_base64_x"),
    ],
)
def test_hyperparameters_that_are_none_are_refused(text: str, said: str, tmp_path: Path) -> None:
    root = written({**SAGEMAKER, "opt/ml/input/config/hyperparameters.json": text}, tmp_path)
    with pytest.raises(JobError, match=said):
        find_place({}, root)


def test_a_grace_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for text in ("90s", "nan", "-1", "1.5"):
        message = f"SEGADAPT_GRACE_S: expected a whole number, got '{text}'. Fix: write digits"
        with pytest.raises(JobError, match=message):
            find_place({"SEGADAPT_GRACE_S": text}, tmp_path)


def test_a_printed_place_shows_no_key(tmp_path: Path) -> None:
    place = find_place({"AWS_SECRET_ACCESS_KEY": "dummy-value"}, tmp_path)
    assert place.environment["AWS_SECRET_ACCESS_KEY"] == "dummy-value"
    assert "dummy-value" not in repr(place) + str(place)


def test_a_channel_in_pipe_mode_is_refused(tmp_path: Path) -> None:
    modes = json.dumps({"source": {"TrainingInputMode": "Pipe"}})
    root = written({**SAGEMAKER, "opt/ml/input/config/inputdataconfig.json": modes}, tmp_path)
    with pytest.raises(JobError, match="channel source: expected the input mode File or FastFile"):
        find_place({}, root)


def test_the_channel_spec_holds_one_job(tmp_path: Path) -> None:
    root = written({**SAGEMAKER, "opt/ml/input/data/spec/a.yaml": ""}, tmp_path)
    assert find_place({}, root).spec == str(root / "opt/ml/input/data/spec/a.yaml")
    written({"opt/ml/input/data/spec/b.yml": ""}, tmp_path)
    with pytest.raises(JobError, match=r"expected one job spec, got a\.yaml, b\.yml"):
        find_place({}, root)


def test_modelarts_channels_are_variables_of_their_name(tmp_path: Path) -> None:
    channels = {"source": "/in/source_0", "checkpoints": "/out/c_0", "model": "/out/model_0"}
    place = find_place({"MA_VJ_NAME": "v", "MA_NUM_GPUS": "0", **channels}, tmp_path)
    assert place.overrides == ("source.uri=/in/source_0", "checkpoint.uri=/out/c_0")
    assert place.model_dir == Path("/out/model_0") and place.processes is None


CONFIG = "opt/ml/input/config"


def test_the_channel_weights_holds_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "opt/ml/input/data/weights"
    channel = {f"{CONFIG}/inputdataconfig.json": json.dumps({"weights": {}})}
    written({**SAGEMAKER, **channel, "opt/ml/input/data/weights/a.safetensors": ""}, tmp_path)
    said = f"model.weights_uri={folder}/a.safetensors"
    modelarts = {"MA_VJ_NAME": "v", "weights": str(folder)}
    other = tmp_path / "other"
    for environment, root in (({}, tmp_path), (modelarts, other)):
        assert find_place(environment, root).overrides == (said,)
    assert with_arguments(find_place({}, other), [f"--weights={folder}"]).overrides == (said,)
    written({"opt/ml/input/data/weights/b.pth": ""}, tmp_path)
    with pytest.raises(
        JobError, match=r"channel weights: expected one file .* got a.safetensors, b.pth"
    ):
        find_place(modelarts, other)


def test_a_volcano_job_needs_a_task_named_worker(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="VC_WORKER_HOSTS: expected the pods of a task named"):
        find_place({"VC_TASK_INDEX": "0", "VC_MASTER_HOSTS": "a"}, tmp_path)


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="JOB_COMPLETION_INDEX: expected a whole number, got 'x'"):
        find_place({"JOB_COMPLETION_INDEX": "x", "PET_NNODES": "2"}, tmp_path)


def test_appended_arguments_are_overrides(tmp_path: Path) -> None:
    place = find_place({}, tmp_path)
    said = ["--source=/in", "--train.steps=5", "--model=/out/model", "--seed=3"]
    found = with_arguments(place, said)
    assert found.overrides == ("source.uri=/in", "train.steps=5", "seed=3")
    assert found.model_dir == Path("/out/model")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("more", "more: expected --KEY=VALUE .* got another argument. Fix: see `segadapt run --h"),
        ("--quick", "--quick: expected --KEY=VALUE"),
    ],
)
def test_other_arguments_are_refused(argument: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=said):
        with_arguments(find_place({}, tmp_path), [argument])


PET = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "4",
    "PET_MASTER_ADDR": "first",
    "PET_MASTER_PORT": "1234",
}


def test_nodes_come_from_torchruns_variables(tmp_path: Path) -> None:
    place = find_place(PET, tmp_path)
    assert (place.platform, place.node, place.num_nodes, place.processes) == ("local", 1, 2, 4)
    assert (place.master_addr, place.master_port) == ("first", 1234)
    assert not place.launched and (place.rank, place.num_ranks) == (0, 1)


def test_ranges_of_nodes_are_refused(tmp_path: Path) -> None:
    assert find_place(PET | {"PET_NNODES": "2:2"}, tmp_path).num_nodes == 2
    with pytest.raises(JobError, match=r"PET_NNODES: expected a number of nodes, got .* 1:4"):
        find_place(PET | {"PET_NNODES": "1:4"}, tmp_path)


WORKERS = POD | {"VC_WORKER_HOSTS": "a,b", "VC_WORKER_NUM": "2"}
PLUGIN = {"VC_MASTER_HOSTS": "a", "VC_WORKER_HOSTS": "b", "MASTER_ADDR": "a", "WORLD_SIZE": "2"}
SKY = {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2"}
STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (PET | {"PET_NODE_RANK": "2"}, "node: expected a number below 2, the nodes of this job"),
        (POD | PET | {"PET_NODE_RANK": "2"}, "node: expected a number below 2"),
        (WORKERS | {"VC_TASK_INDEX": "2"}, "node: expected a number below 2"),
        (POD | PLUGIN | {"RANK": "2"}, "node: expected a number below 2"),
        (POD | PET | {"JOB_COMPLETION_INDEX": "2", "PET_NODE_RANK": ""}, "PET_NODE_RANK: expected"),
        (STEP | {"SLURM_NODEID": "2"}, "node: expected a number below 2"),
        (STEP, "SLURM_NODEID: expected a whole number, got None"),
        (SKY | {"SKYPILOT_NODE_RANK": "2"}, "node: expected a number below 2"),
        (SKY | {"SKYPILOT_NODE_RANK": "a"}, "SKYPILOT_NODE_RANK: expected a whole number, got 'a'"),
        (SKY | {"RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "a"}, "WORLD_SIZE: expected torch"),
        (PET | {"PET_NODE_RANK": "-1"}, "PET_NODE_RANK: expected a whole number, got '-1'"),
        (POD | PET | {"PET_NODE_RANK": "one"}, "PET_NODE_RANK: expected a whole number, got 'one'"),
        ({"PET_NNODES": "2", "PET_MASTER_ADDR": "a"}, "PET_NODE_RANK: expected .* got None"),
        (PET | {"PET_NNODES": "0"}, "PET_NNODES: expected a number of nodes, got '0'"),
        (POD | PET | {"PET_NNODES": "two"}, "PET_NNODES: expected a number of nodes, got 'two'"),
    ],
)
def test_a_node_without_a_number_among_its_job_s_is_refused(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    """It took itself for the first one and trained alone, or the nodes waited for each other."""
    with pytest.raises(JobError, match=said):
        find_place(given, tmp_path)


def test_torchs_launcher_and_indexes_without_nodes_need_no_number(tmp_path: Path) -> None:
    launched = dict.fromkeys(("RANK", "LOCAL_RANK", "GROUP_RANK"), "0") | {"PET_NNODES": "2"}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"), "2")
    place = find_place(launched | sizes | {"TORCHELASTIC_RUN_ID": "x"}, tmp_path)
    assert (place.node, place.num_nodes) == (0, 2)
    place = find_place(POD | {"JOB_COMPLETION_INDEX": "3"}, tmp_path)
    assert (place.node, place.num_nodes) == (0, 1), "four jobs, each with a spec of its own"


def test_the_supervisors_child_and_its_ranks_have_a_status_folder(tmp_path: Path) -> None:
    folder = {"SEGADAPT_STATUS_DIR": "/status"}
    first, alone = find_place({}, tmp_path), find_place(folder, tmp_path)
    by_hand, rank = find_place(TORCHRUN, tmp_path), find_place(TORCHRUN | folder, tmp_path)
    assert [place.status_dir for place in (first, by_hand)] == [None, None]
    assert alone.status_dir == rank.status_dir == Path("/status")
    places = (first, alone, by_hand, rank)
    assert [place.supervised for place in places] == [False, True, True, True]
    assert [place.launched for place in places] == [False, False, True, True]


def test_the_failure_file_is_where_the_platform_looks(tmp_path: Path) -> None:
    assert find_place(POD, tmp_path).failure_file is None
    written({"dev/termination-log": ""}, tmp_path)
    assert find_place(POD, tmp_path).failure_file == tmp_path / "dev/termination-log"
    assert find_place({}, tmp_path).failure_file is None
    written(SAGEMAKER, tmp_path)
    assert find_place({}, tmp_path).failure_file == tmp_path / "opt/ml/output/failure"
