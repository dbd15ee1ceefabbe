"""The commands as users run them: answers, exit codes, messages, signals."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from adapt import __version__
from adapt.cli import PANELS, app
from adapt.cli.main import _failure
from adapt.places import Place
from adapt.spec.job_spec import json_schema
from adapt.spec.shipped import shipped_names
from tests.cli.conftest import refused
from tests.commands import ROOT, Ended, call, finish, start_python
from tests.conftest import write_raw_folders

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, tmp_path: Path) -> None:
    ended = call(command, "--help", folder=tmp_path)
    assert ended.code == 0 and command in ended.out and ended.err == ""


def test_every_command_stands_under_a_heading(tmp_path: Path) -> None:
    shown = call("--help", folder=tmp_path).out
    assert [panel for panel in PANELS if f" {panel} " not in shown] == []
    assert {command.rich_help_panel for command in COMMANDS.values()} == set(PANELS)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["run"], "SPEC: expected a job spec, got none, nor from the platform (local)"),
        (["check"], "Missing argument 'SPEC'"),
        (["schema", "--bogus"], "No such option: --bogus"),
        (["pack", "folders", "raw", "uri", "--size-hw", "48"], "--size-hw"),
    ],
)
def test_wrong_usage_ends_with_2(argv: list[str], message: str, tmp_path: Path) -> None:
    ended = call(*argv, folder=tmp_path)
    assert ended.code == 2 and message in ended.err and "Traceback" not in ended.err


def test_without_arguments_the_commands_are_listed(tmp_path: Path) -> None:
    ended = call(folder=tmp_path)
    assert ended.code == 2 and all(command in ended.out + ended.err for command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("specs | true", 141),
        ("specs > /dev/full", 3),
        ("specs >&-", 0),
        ("specs nope 2> /dev/full", 2),
        ("specs nope 2>&1 | true", 2),
        ("--bogus 2> /dev/full", 2),
        ("--bogus <&- >&- 2>&-", 2),
    ],
)
def test_output_that_cannot_be_written_does_not_change_the_exit_code(
    command: str, code: int, tmp_path: Path
) -> None:
    words, _, reader = command.partition(" | ")
    rest = f" | {reader}; exit ${{PIPESTATUS[0]}}" if reader else ""
    line = f"{sys.executable} {ROOT}/entrypoint.py {words}{rest}"
    ended = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == code and "Traceback" not in ended.stderr, ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["specs --json", "specs --out copied"])
def test_an_answer_that_nobody_reads_leaves_work_done(command: str, tmp_path: Path) -> None:
    """Unlike a listing for `| head`, which is all that its command does."""
    line = f"{sys.executable} {ROOT}/entrypoint.py {command} | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False
    )
    assert ended.returncode == 0 and "rror" not in ended.stderr, ended.stderr
    assert len(list(tmp_path.rglob("*.yaml"))) == (len(shipped_names()) if "out" in command else 0)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["verify", "packed", "--split", ""], "--split"),
        (["inspect", "packed", "--split="], "--split"),
        (["verify", ""], "URI"),
        (["pack", "folders", "", "packed"], "RAW_DIR"),
        (["pack", "folders", "raw", "packed", "--skip", "a", "--skip", " "], "--skip"),
        (["sync-metrics", ""], "SPOOL"),
        (["cache", "ls", "--folder="], "--folder"),
        (["check", "toy_town/advent", "--set", ""], "--set"),
        (["evaluate", "toy_town/advent", "--checkpoint", ""], "--checkpoint"),
    ],
)
def test_empty_texts_are_wrong_usage(argv: list[str], name: str, tmp_path: Path) -> None:
    """A script passes them where its variable is not set; an empty path would be this folder."""
    ended = call(*argv, folder=tmp_path)
    assert ended.code == 2 and "expected a value, got an empty text" in ended.err
    assert name in ended.err and ended.out == ""


def test_empty_arguments_that_platforms_append_do_not_matter(tmp_path: Path) -> None:
    refused(call("run", "", "--x=", folder=tmp_path), 2, "SPEC: expected a job spec, got none")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux")
@pytest.mark.parametrize(
    "argv",
    [
        ["sync-metrics", "FILE"],
        ["import-checkpoint", "FILE", "--out", "o.safetensors"],
        ["export-checkpoint", "FILE", "--out", "o.pth", "--style", "advent"],
        ["check", "FILE"],
        ["pack", "folders", "raw", "packed", "--skip-file", "FILE"],
        ["evaluate", "FILE", "--checkpoint", "FILE"],
    ],
)
@pytest.mark.parametrize("file", ["/proc/self/mem", "link", "loop"])
def test_files_that_cannot_be_read_are_named(argv: list[str], file: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/mem")
    (tmp_path / "loop").symlink_to("loop")
    write_raw_folders(tmp_path / "raw", 1, seed=1)
    ended = call(*(file if word == "FILE" else word for word in argv), folder=tmp_path)
    refused(ended, 2, Path(file).name)


def test_lists_that_never_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapt.data.text_files.MAX_BYTES", 1 << 20)
    write_raw_folders(tmp_path / "raw", 1, seed=1)
    argv = ("pack", "folders", "raw", "packed", "--skip-file", "/dev/zero")
    refused(call(*argv, folder=tmp_path), 2, "/dev/zero: expected a text file of at most 1 MB")


@pytest.mark.parametrize("command", ["pack", "run", "evaluate", "import-checkpoint", "cache clear"])
def test_help_is_wrapped_once(command: str, tmp_path: Path) -> None:
    """Each line but the last of a paragraph is full: the next word would not have fitted."""
    shown = call(*command.split(), "--help", folder=tmp_path, environment={"COLUMNS": "60"}).out
    prose = shown.split("\u256d")[0].split("Usage:")[1].split("\n")[2:]
    lines = [line.strip() for line in prose]
    assert len(lines) > 2
    for line, following in pairwise(lines):
        assert not (line and following) or len(line) + 1 + len(following.split()[0]) > 58, lines


def test_schema_is_the_models_own(tmp_path: Path) -> None:
    assert call("schema", folder=tmp_path) == Ended(0, json_schema(), "")


def test_a_bug_ends_with_1_and_its_traceback(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("adapt.trainer.run.run_job", broken)
    ended = call("run", spec, folder=tmp_path)
    assert ended.code == 1
    assert "Traceback" in ended.err and "ZeroDivisionError: a bug" in ended.err
    assert "this is a bug in SegAdapt" in ended.err


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (("specs", "toy_town", "--out", "a_file"), "a_file"),
        (("demo", "--out", "a_file"), "a_file"),
        (("specs", "toy_town", "--out", "/proc/none"), "/proc/none"),
    ],
    ids=str,
)
def test_a_path_that_cannot_be_used_is_named(
    argv: tuple[str, ...], path: str, tmp_path: Path
) -> None:
    (tmp_path / "a_file").touch()
    ended = call(*argv, folder=tmp_path)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert f"PathError {path}" in ended.err
    assert "Fix: check the path and the rights of this user on it." in ended.err


def test_a_file_that_a_job_itself_misses_is_a_bug(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the user's path: 2 would be final for a platform."""

    def broken(*args: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/somewhere/inside")

    monkeypatch.setattr("adapt.trainer.run.run_job", broken)
    ended = call("run", spec, folder=tmp_path)
    assert ended.code == 1 and "this is a bug in SegAdapt" in ended.err
    assert "PathError" not in ended.err


@pytest.mark.parametrize(
    ("filename", "said"),
    [
        ("/dev/full", "a disk is full: /dev/full. Fix: free space there."),
        (None, "a disk is full: that of the output, or of a temporary file. Fix: free space"),
    ],
)
def test_a_full_disk_that_is_not_the_scratch_folders_is_not_blamed_on_it(
    filename: str | None, said: str, tmp_path: Path
) -> None:
    failed = _failure(
        OSError(28, "No space left on device", filename), Place("local", {}, tmp_path)
    )
    assert failed.exit_code == 3 and failed.message.startswith(said)
    assert "SEGADAPT_SCRATCH_DIR" not in failed.message


@pytest.mark.parametrize("filename", ["shards/x", None])
def test_a_full_scratch_folder_is_named(
    filename: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.cli.main._is_full", lambda folder: folder == tmp_path)
    where = None if filename is None else str(tmp_path / filename)
    failed = _failure(OSError(28, "No space left on device", where), Place("local", {}, tmp_path))
    assert failed.message.startswith(f"a disk is full: {where or tmp_path}. Fix: set SEGADAPT_SCRA")


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert call("--version", folder=tmp_path) == Ended(0, f"segadapt {__version__}\n", "")


def test_check_answers_with_a_spec_that_is_valid_itself(spec: Path, tmp_path: Path) -> None:
    first = call("check", spec, "--spec", "--set", "train.steps=7", folder=tmp_path)
    assert first.code == 0 and "valid" in first.err
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(first.out)
    again = call("check", resolved, "--spec", folder=tmp_path)
    assert again.out == first.out
    as_json = call("check", resolved, "--spec", "--json", folder=tmp_path)
    assert json.loads(as_json.out) == yaml.safe_load(first.out)
    assert json.loads(as_json.out)["train"]["steps"] == 7


@pytest.mark.parametrize("command", [("check", "--spec"), ("run",)])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "train.stepz: unknown key, got 'stepz'; did you mean 'steps'?"),
        ("train.steps=10k", "train.steps: expected a positive integer, got '10k'"),
        (
            "stores={s3: {access_key_env: NO_SUCH_KEY, secret_key_env: NO_SUCH_SECRET}}",
            "stores.s3.access_key_env: expected the secret in environment variable NO_SUCH_KEY",
        ),
    ],
)
def test_a_wrong_spec_is_refused_by_key(
    command: tuple[str, ...], override: str, message: str, spec: Path, tmp_path: Path
) -> None:
    uri = ("--set", "source.uri=s3://bucket/tiny")
    ended = call(*command, spec, "--set", override, *uri, folder=tmp_path)
    refused(ended, 2, message)
    assert not (tmp_path / "runs").exists()


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    for command in ("run", "check"):
        ended = call(command, "nosuch", folder=tmp_path)
        refused(ended, 2, "SPEC: expected a YAML file, its URI or the name of a shipped one, got")
        refused(ended, 2, "Fix: check the path, or take a name from `segadapt specs`.")
        ended = call(command, "toy_town/advnt", folder=tmp_path)
        refused(ended, 2, "got 'toy_town/advnt'; did you mean 'toy_town/advent'?")


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    ended = call("check", "toy_town/advent", "--to", "platforms/dokcer", folder=tmp_path)
    refused(ended, 2, "--to: expected a YAML file,", "did you mean 'platforms/docker'?")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run toy_town/adv", ["toy_town/advent"]),
        ("check toy_town/source", ["toy_town/source_only"]),
        ("check x --to platforms/d", ["platforms/docker"]),
        ("submit x --to platforms/kubernetes_v", ["platforms/kubernetes_volcano"]),
        ("specs toy_town/s", ["toy_town/source_only", "toy_town/start", "toy_town/statistics"]),
        ("pack city", ["cityscapes"]),
        ("pack gta5 a b --classes cityscapes1", ["cityscapes16", "cityscapes19"]),
        ("demo --method adv", ["advent"]),
        ("run ./no", []),
    ],
)
def test_a_shell_completes_names(typed: str, offered: list[str], tmp_path: Path) -> None:
    words = f"segadapt {typed}"
    variables = {"_SEGADAPT_COMPLETE": "complete_bash", "COMP_WORDS": words}
    position = {"COMP_CWORD": str(len(words.split()) - 1)}
    ended = call(folder=tmp_path, environment={**variables, **position})
    assert (ended.code, ended.out.split()) == (0, offered)


@pytest.mark.parametrize("command", ["run", "check", "submit"])
def test_help_says_that_shipped_names_are_taken(command: str, tmp_path: Path) -> None:
    words = " ".join(call(command, "--help", folder=tmp_path).out.replace("\u2502", " ").split())
    assert "or a name that `specs` lists" in words
    assert command == "run" or "Profile of the platform: a YAML file, or a name that" in words


def test_check_asks_the_networks(spec: Path, tmp_path: Path) -> None:
    one_level = ("--set", "model.aux=false")
    ended = call("check", spec, "--spec", *one_level, folder=tmp_path)
    refused(ended, 2, "method.weight_adv: expected at most one weight for each head", "got 2")
    ended = call("check", spec, "--spec", "--set", "model.encoder=resnet19", folder=tmp_path)
    refused(ended, 2, "model.encoder", "did you mean 'resnet18'")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--help",), ("pack", "--help"), ("jobs",), ("run", "--typo")])
def test_commands_that_train_nothing_do_not_wait_for_torch(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    """Nor, where they only explain themselves, for a library that takes a tenth of a second."""
    ended = finish(
        start_python("-X", "importtime", ROOT / "entrypoint.py", *words, folder=tmp_path)
    )
    assert ended.code in (0, 2) and "|adapt.cli\n" in ended.err.replace(" ", "")
    imported = {line.rpartition("|")[2].strip() for line in ended.err.splitlines()}
    dear = {"torch", "mlflow", "boto3", "numpy", "PIL"}
    if words == ("--help",):  # typer imports pydantic to parse any option
        dear |= {"pydantic", "yaml"}
    assert imported & dear == set()


@pytest.mark.slow
def test_passwords_of_servers_are_not_printed(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.tracking.delivery._FAILING_WAIT_S", 1.0)
    uri = "http://me:hunter2@127.0.0.1:1"
    environment = {"MLFLOW_TRACKING_URI": uri, "SEGADAPT_GRACE_S": "6"}
    ended = call("run", spec, "--json", folder=tmp_path, environment=environment)
    assert ended.code == 0 and json.loads(ended.out)["tracking_uri"] == "http://***@127.0.0.1:1"
    assert "hunter2" not in ended.out + ended.err


def test_a_key_in_the_place_of_a_name_is_not_printed(tmp_path: Path) -> None:
    key = "AK" + "IAIOSFODNN7EXAMPLE"
    for argv in (("run",), ("verify", f"{key}/train"), ("predict", key, key, "--out", "seen")):
        ended = call(*argv, folder=tmp_path, environment={"SEGADAPT_SPEC": key})
        assert ended.code != 0 and "[an AWS access key]" in ended.err, ended.err
        assert key not in ended.err + ended.out
