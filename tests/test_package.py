"""The wheel, installed where the repository is not: commands, shipped specs, types, completion.

The fresh environment has the wheel alone (`--no-deps`); the other packages come from this one's
site-packages, by a `.pth` file, so that nothing is downloaded.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import adapt
from adapt.spec.loading import load_spec, parse_spec
from adapt.spec.shipped import shipped_names
from tests.commands import ROOT, environment_of
from tests.conftest import tiny_values

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PUBLIC = tuple(name for name in adapt.__all__ if name != "__version__")


class Installed(NamedTuple):
    """A fresh environment with the wheel, and the wheel's names and metadata."""

    bin_dir: Path
    files: list[str]
    metadata: str

    def run(
        self, program: str, *arguments: object, folder: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = environment_of(folder, {"OMP_NUM_THREADS": "1", **variables})
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [self.bin_dir / program, *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return Installed(python.parent, archive.namelist(), archive.read(metadata).decode())


@pytest.mark.slow
def test_the_wheel_has_types_specs_and_one_version(installed: Installed) -> None:
    packaged = {f"adapt/job_specs/{name}.yaml" for name in shipped_names()}
    wanted = {"adapt/py.typed", "storage/py.typed", "adapt/job_specs/schema.json", *packaged}
    assert wanted <= set(installed.files) and len(packaged) > 50
    tops = {name.partition("/")[0] for name in installed.files}
    assert tops == {"adapt", "storage", f"segadapt-{adapt.__version__}.dist-info"}
    assert f"Version: {adapt.__version__}\n" in installed.metadata


def test_modules_come_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    lines = "import adapt, storage, sys; print(adapt.__file__, storage.__file__, *sys.path)"
    ended = installed.run("python", "-c", lines, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count(str(installed.bin_dir.parent)) >= 2
    assert str(ROOT / "adapt") not in ended.stdout


@pytest.mark.slow
def test_a_shipped_spec_is_checked_by_its_name(installed: Installed, tmp_path: Path) -> None:
    ended = installed.run("segadapt", "check", "toy_town/advent", "--spec", folder=tmp_path)
    assert ended.returncode == 0 and "valid: run 'advent'" in ended.stderr, ended.stderr
    spec = ROOT / "job_specs" / "toy_town" / "advent.yaml"
    assert yaml.safe_load(ended.stdout) == load_spec(spec).resolved()


@pytest.mark.slow
def test_a_full_check_finds_that_the_data_is_missing(installed: Installed, tmp_path: Path) -> None:
    ended = installed.run("segadapt", "check", "toy_town/source_only", "--json", folder=tmp_path)
    answer = json.loads(ended.stdout)
    wrong = {one["what"] for one in answer["findings"] if not one["ok"]}
    assert ended.returncode == answer["exit_code"] == 4
    assert wrong == {"source", "validation", "weights"}, ended.stdout


@pytest.mark.slow
def test_specs_are_listed_printed_and_copied(installed: Installed, tmp_path: Path) -> None:
    listed = installed.run("segadapt", "specs", folder=tmp_path)
    assert listed.stdout.split() == shipped_names()
    copied = installed.run("segadapt", "specs", "toy_town", "--out", "mine", folder=tmp_path)
    assert "mine/toy_town/advent.yaml" in copied.stdout.split()
    ended = installed.run("segadapt", "specs", "toy_town/advent", folder=tmp_path)
    assert (tmp_path / "mine" / "toy_town" / "advent.yaml").read_text() == ended.stdout
    assert (tmp_path / "mine" / "schema.json").is_file()


@pytest.mark.slow
def test_a_job_trains_in_ranks_of_their_own(
    installed: Installed, tiny_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_values(tiny_uri, "runs")))
    ended = installed.run("segadapt", "run", "tiny.yaml", "--set", "train.steps=2", folder=tmp_path)
    assert ended.returncode == 0 and "done: tiny, 2 steps" in ended.stderr, ended.stderr
    assert "segadapt download-best tiny" in ended.stderr


@pytest.mark.slow
def test_the_module_is_the_same_program(installed: Installed, tmp_path: Path) -> None:
    for words in (["python", "-m", "adapt"], ["python", ROOT / "entrypoint.py"], ["segadapt"]):
        program, *arguments = map(str, words)
        ended = installed.run(program, *arguments, "run", "--help", folder=tmp_path)
        assert "Usage: segadapt run [OPTIONS]" in ended.stdout, ended.stderr


@pytest.mark.slow
def test_the_example_of_the_methods_page_runs(installed: Installed, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ended = installed.run("python", "-c", f"{code}\nprint(*losses)", folder=tmp_path)
    assert ended.returncode == 0 and "adversarial/main" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("segadapt down", "download-best"), ("segadapt run --proc", "--processes")],
)
def test_a_shell_gets_completions(
    installed: Installed, tmp_path: Path, typed: str, offered: str
) -> None:
    variables = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    ended = installed.run(
        "segadapt", folder=tmp_path, _SEGADAPT_COMPLETE="complete_bash", **variables
    )
    assert ended.returncode == 0 and ended.stdout.split() == [offered], ended.stderr


def test_completion_is_installed_for_the_program(installed: Installed, tmp_path: Path) -> None:
    ended = installed.run(
        *("segadapt", "--install-completion", "bash"),
        folder=tmp_path,
        HOME=str(tmp_path),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",  # whatever shell runs the tests
    )
    assert ended.returncode == 0, ended.stderr
    script = (tmp_path / ".bash_completions" / "segadapt.sh").read_text()
    assert "_SEGADAPT_COMPLETE=complete_bash" in script and "segadapt" in script
    assert "segadapt.sh" in (tmp_path / ".bashrc").read_text()


def test_importing_adapt_loads_no_other_package() -> None:
    lines = "import adapt, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", lines], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = set(ended.stdout.split())
    assert "adapt" in found
    assert found <= {"adapt", "__main__", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_those_of_their_modules(name: str) -> None:
    found: Any = getattr(adapt, name)
    assert found.__name__ == name and found.__module__.startswith("adapt.")
    assert name in dir(adapt) and name in adapt.__all__


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'adapt' has no attribute 'train'"):
        adapt.train  # noqa: B018


def test_there_are_seven_public_names() -> None:
    known = {"build_method", "build_segmenter", "evaluate_checkpoint", "find_place", "load_spec"}
    assert set(PUBLIC) == known | {"load", "run_job"}


def test_the_public_names_build_a_network_and_its_method(tiny_job: dict[str, Any]) -> None:
    job = parse_spec(tiny_job, "tiny")
    method = adapt.build_method(job.method, adapt.build_segmenter(job.model, num_classes=4))
    assert type(method).__name__ == "AdvEnt"


def pins() -> dict[str, Requirement]:
    """Every exact requirement of requirements*.txt, by canonical name."""
    pages = [path.read_text() for path in ROOT.glob("requirements*.txt")]
    lines = [line for page in pages for line in page.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return {canonicalize_name(one.name): one for one in found}


def ranges() -> dict[str, Requirement]:
    """Every dependency of pyproject.toml, also those of extras, by canonical name."""
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    found = [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]
    return {canonicalize_name(one.name): one for one in found if one.name != "segadapt"}


def test_every_tested_version_is_in_its_range() -> None:
    known = ranges()
    for name, pin in pins().items():
        assert name in known, f"{name} is in requirements*.txt and not in pyproject.toml"
        for specifier in pin.specifier:
            assert specifier.version in known[name].specifier, f"{pin} is not in {known[name]}"


def test_what_a_job_needs_is_what_the_wheel_asks_for() -> None:
    """The image has every store, export, sweep and serve; a wheel has those of Google and Azure,
    export, sweep and serve as extras."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    needed = {Requirement(line).name for line in lines if not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    names = ("gs", "az", "export", "sweep", "serve")
    of_the_image = [line for name in names for line in extras[name]]
    lines = [*PROJECT["dependencies"], *of_the_image]
    asked = {Requirement(line).name for line in lines}
    assert {canonicalize_name(one) for one in asked} == {canonicalize_name(one) for one in needed}


def test_installed_versions_are_the_pinned_ones() -> None:
    for name, pin in pins().items():
        if pin.specifier:
            assert importlib.metadata.version(name) in pin.specifier
