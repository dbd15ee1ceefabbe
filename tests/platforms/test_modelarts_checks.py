"""The checks of ModelArts before a job is sent."""

from typing import Any

import pytest

from adapt.platforms.modelarts import connect
from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.platform import Finding
from tests.platforms import modelarts_double
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import KEYS, body_of, connected, submitted
from tests.platforms.modelarts_samples import profile_of
from tests.platforms.quick import QUICK

pytestmark = pytest.mark.usefixtures("no_proxy")


def found_by(modelarts_client: ModelArtsClient, **changes: Any) -> dict[str, Finding]:
    return {one.what: one for one in modelarts_client.check(body_of(**changes))}


def test_check_finds_all_in_order(modelarts: ModelArtsDouble) -> None:
    found = found_by(connected(modelarts))
    assert [*found] == ["ModelArts", "machine", "image", "name", "outputs"]
    assert all(one.ok for one in found.values())
    assert found["machine"].found == "modelarts.p3.large.public x 1, 1 GPUs each"


@pytest.mark.parametrize(
    ("changes", "found", "cure"),
    [
        ({"flavor_id": "p9"}, "there is no flavor p9 for training",
         "flavor_id: one of modelarts.p3.8xlarge.public, modelarts.p3.large.public, "),
        ({"gpus": 2}, "modelarts.p3.large.public has 1 GPUs", "gpus: 1"),
        ({"nodes": 5, "outputs": {}, "flavor_id": "modelarts.p3.large.public"},
         "modelarts.p3.large.public allows 4 nodes", "nodes: 4"),
        ({"flavor_id": None, "gpus": 0, "pool_id": "pool-x"}, "pool pool-x is not there",
         "correct pool_id"),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong_with_the_machine(
    modelarts: ModelArtsDouble, changes: dict[str, Any], found: str, cure: str
) -> None:
    machine = next(
        one for one in connected(modelarts, **changes).check(body_of()) if one.what == "machine"
    )
    assert (machine.ok, machine.found) == (False, found)
    assert cure in machine.fix


@pytest.mark.parametrize(
    ("flavors", "found"),
    [
        ({}, "modelarts.p3.large.public: ModelArts lists no flavors; not checked"),
        ({"flavor_type": "GPU"}, "ModelArts does not say how many GPUs it has"),
        (
            {"flavor_type": "GPU", "flavor_info": {"max_num": 4}},
            "does not say how many GPUs it has",
        ),
    ],
)
def test_a_list_of_flavors_that_says_nothing_is_no_fault_of_the_profile(
    flavors: dict[str, Any], found: str, modelarts: ModelArtsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"flavor_id": "modelarts.p3.large.public", **flavors}] if flavors else []
    monkeypatch.setattr(modelarts_double, "FLAVORS", listed)
    machine = found_by(connected(modelarts))["machine"]
    assert machine.ok and found in machine.found


def test_check_reads_the_gpus_model_from_the_list_of_flavors(
    modelarts: ModelArtsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {"unit_num": 1, "product_name": "NVIDIA-V100"}
    listed = [{"flavor_id": "some.flavor", "flavor_type": "GPU", "flavor_info": {"gpu": gpu}}]
    monkeypatch.setattr(modelarts_double, "FLAVORS", listed)
    found = found_by(connected(modelarts, flavor_id="some.flavor"))["machine"]
    assert not found.ok and "got V100 with 7.0" in found.found and "cuda: 12" in found.fix
    assert found_by(connected(modelarts, flavor_id="some.flavor", cuda=12))["machine"].ok


def test_check_knows_a_pool(modelarts: ModelArtsDouble) -> None:
    cpus = connected(modelarts, flavor_id=None, gpus=0, pool_id=modelarts_double.POOL)
    assert found_by(cpus)["machine"].found == "pool pool-1a2b3c is there"


def test_check_finds_a_taken_name_and_a_folder_in_use(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Running")
    found = found_by(modelarts_client)
    assert not found["name"].ok and found["name"].found == "segadapt-tiny-1 is taken"
    assert found["outputs"].found == "job segadapt-tiny-1 writes to /towns/runs/tiny/"
    assert f"stop it ({job})" in found["outputs"].fix
    modelarts.jobs[job].phases = ["Failed"]
    assert found_by(modelarts_client)["outputs"].ok


def test_jobs_whose_outputs_are_not_in_obs_disturb_no_check(
    modelarts_client: ModelArtsClient, modelarts: ModelArtsDouble
) -> None:
    job = submitted(modelarts_client, modelarts, "Running")
    for others in ([{"name": "a"}], [{"remote": None}], [{"remote": {"obs": None}}], None):
        modelarts.jobs[job].body["algorithm"]["outputs"] = others
        assert found_by(modelarts_client)["outputs"].ok


def test_check_says_what_secrets_mean_and_which_are_missing(modelarts: ModelArtsDouble) -> None:
    client = connected(modelarts, {"A": "x"})
    secrets = [one for one in client.check(body_of(secrets=["A", "B"])) if one.what == "secrets"]
    assert [one.ok for one in secrets] == [False, True]
    assert (secrets[0].found, secrets[0].fix) == ("variable B is not set", "export B")
    assert "to every user who may see the job" in secrets[1].found


def test_check_ends_where_the_keys_are_wrong_or_nobody_answers(
    modelarts: ModelArtsDouble, absent_uri: str
) -> None:
    wrong = [*connected(modelarts, {"HUAWEICLOUD_SDK_SK": "x"}).check(body_of())]
    away = connect(profile_of(endpoint=absent_uri), KEYS)
    away.api.retry = QUICK
    found = [*wrong, *away.check(body_of())]
    assert [(one.what, one.ok, one.exit_code) for one in found] == [
        ("ModelArts", False, 2),
        ("ModelArts", False, 3),
    ]
