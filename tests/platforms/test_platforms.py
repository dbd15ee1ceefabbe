"""What holds for every row of PLATFORMS."""

import json
from pathlib import Path

import pytest
import yaml

from adapt.config.strict_yaml import packed
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import Profile, Submission
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec
from tests.commands import ROOT

PROFILES = sorted((ROOT / "job_specs/platforms").glob("*.yaml"))
SPEC = ROOT / "job_specs/gta5_to_cityscapes/advent.yaml"


@pytest.fixture(scope="module")
def job() -> JobSpec:
    return load_spec(SPEC, ["source.batch_size=16", "target.batch_size=16"])


def test_every_platform_has_a_shipped_profile_and_a_page() -> None:
    shipped = {load_profile(path).platform for path in PROFILES}
    known = {"docker", "kubernetes", "modelarts", "sagemaker", "sky", "slurm"}
    assert shipped == PLATFORMS.keys() == known
    for name in PLATFORMS:
        assert (ROOT / "docs/platforms" / f"{name}.md").exists()


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_request_is_plain_data_and_says_the_whole_job(path: Path, job: JobSpec) -> None:
    profile = load_profile(path)
    row = PLATFORMS[profile.platform]
    request = row.request(Submission("town-261127-120000", job), profile)
    assert json.loads(json.dumps(request)) == request
    assert request == row.request(Submission("town-261127-120000", job), profile)
    text = yaml.safe_dump(request, width=10**9)
    assert "town-261127-120000" in text and profile.image in text
    assert row.grace_s(profile) > 0 and isinstance(row.restarts(profile), bool)
    told = (packed(job.to_yaml())[:2000], job.to_yaml().splitlines()[0], "SEGADAPT_SPEC")
    assert any(one in text for one in told)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_say_what_each_key_is(path: Path) -> None:
    profile: Profile = load_profile(path)
    undescribed = [
        name for name, field in type(profile).model_fields.items()
        if not field.description and name != "platform"
    ]  # fmt: skip
    assert not undescribed
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_typing_mistake_in_a_profile_is_named(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text() + "\nimagee: x\n")
    with pytest.raises(JobError, match="imagee"):
        load_profile(wrong)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_secret_in_a_profile_is_refused_unseen(path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values["environment"] = {"MY_API_KEY": "hunter2"}
    (tmp_path / path.name).write_text(yaml.safe_dump(values))
    with pytest.raises(JobError, match="environment: expected no secrets, got MY_API_KEY") as told:
        load_profile(tmp_path / path.name)
    assert "hunter2" not in str(told.value)


def test_what_check_is_promised_is_what_a_request_asks_for() -> None:
    promised = {path.stem: load_profile(path).promised_gb() for path in PROFILES}
    assert promised["docker"] == (1, None)
    assert promised["kubernetes"].shm and promised["kubernetes"].disk
    assert promised["modelarts"] == (None, None)
    secrets = {path.stem: load_profile(path).secret_names() for path in PROFILES}
    assert list(secrets["docker"]) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert not secrets["kubernetes"] and not secrets["sagemaker"]


def test_nodes_wait_for_one_another_as_long_as_spec_or_profile_says(job: JobSpec) -> None:
    def wait_s(minutes: float, nodes: int = 2, **environment: str) -> str | None:
        profile = Profile(platform="p", image="i", nodes=nodes, environment=environment)
        train = job.train.model_copy(update={"stall_minutes": minutes})
        one = Submission("town-1", job.model_copy(update={"train": train}))
        return one.environment(profile, 30).get("SEGADAPT_NODES_WAIT_S")

    assert wait_s(90) == "5400"
    assert wait_s(90, SEGADAPT_NODES_WAIT_S="7200") == "7200"
    assert wait_s(20) is None, "the place's default"
    assert wait_s(90, nodes=1) is None
