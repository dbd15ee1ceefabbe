"""Job specs and profiles that come with SegAdapt: by name, printed, copied."""

import json
from pathlib import Path

import pytest

from adapt.errors import JobError
from adapt.platforms import load_profile
from adapt.spec.loading import load_spec
from adapt.spec.shipped import copy_shipped, find_file, shipped_dir, shipped_names, shipped_path
from tests.commands import ROOT, call

NAMES = shipped_names()


def test_in_the_repository_the_shipped_files_are_job_specs() -> None:
    assert shipped_dir() == ROOT / "job_specs"
    assert len(NAMES) == len(list(ROOT.glob("job_specs/*/*.yaml")))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_is_loaded_by_its_name(name: str) -> None:
    if name.startswith("platforms/"):
        assert load_profile(Path(name)) == load_profile(ROOT / "job_specs" / f"{name}.yaml")
    else:
        assert load_spec(name).name == name.rpartition("/")[2]


def test_a_file_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("toy_town/advent") == ROOT / "job_specs" / "toy_town" / "advent.yaml"
    (tmp_path / "toy_town").mkdir()
    (tmp_path / "toy_town" / "advent").touch()
    assert find_file("toy_town/advent") == "toy_town/advent"
    assert find_file("s3://bucket/spec.yaml") == "s3://bucket/spec.yaml"


@pytest.mark.parametrize("name", ["", "no/such.yaml", "x" * 5000, "a\0b", "\ud800", "s3:/bucket/x"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"^SPEC: expected a YAML file, its URI or the name of a sh"):
        find_file(name)
    with pytest.raises(
        JobError, match=r"^--to: expected a YAML file, .* got .*Fix: check the path"
    ):
        load_profile(name)


def test_a_folder_hides_no_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_town" / "advent").mkdir(parents=True)
    assert find_file("toy_town/advent") == ROOT / "job_specs" / "toy_town" / "advent.yaml"


def test_a_folder_is_copied_with_the_schema_its_files_name(tmp_path: Path) -> None:
    written = list(copy_shipped("toy_town", tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        f"{name}.yaml" for name in NAMES if name.startswith("toy_town/")
    ]
    for path in written:
        first, _, _ = path.read_text().partition("\n")
        schema = path.parent / first.rpartition("$schema=")[2]
        assert json.loads(schema.read_text())["title"] == "JobSpec"
        assert load_spec(path)


def test_a_copy_replaces_no_file(tmp_path: Path) -> None:
    list(copy_shipped("toy_town/advent", tmp_path))
    with pytest.raises(
        JobError, match=r"--out: expected no file at .*advent.yaml, got one\. Fix: choose"
    ):
        list(copy_shipped("toy_town", tmp_path))
    assert not (tmp_path / "toy_town" / "start.yaml").exists()


def test_an_unknown_name_is_answered_with_a_known_one(tmp_path: Path) -> None:
    ended = call("specs", "toy_town/advnt", folder=tmp_path)
    assert ended.code == 2
    assert "NAME: expected a shipped job spec, got 'toy_town/advnt'" in ended.err
    assert "did you mean 'toy_town/advent'" in ended.err
    with pytest.raises(JobError) as caught:
        shipped_path("toy_town/advnt")
    assert caught.value.problem.endswith(f"{NAMES[9]} and {len(NAMES) - 10} more)")
    assert caught.value.problem.count(",") < 12 and caught.value.fix == "run `segadapt specs`"


@pytest.mark.slow
def test_specs_answers_json_and_copies_everything(tmp_path: Path) -> None:
    assert json.loads(call("specs", "--json", folder=tmp_path).out) == NAMES
    ended = call("specs", "--out", "all", folder=tmp_path)
    assert ended.code == 0 and len(ended.out.splitlines()) == len(NAMES)
    assert "schema for editors: all/schema.json" in ended.err
