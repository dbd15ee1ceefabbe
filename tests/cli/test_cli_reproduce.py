"""`reproduce` as users run it: in words, and as JSON alone on stdout."""

import json
from pathlib import Path

import pytest

from adapt.spec.loading import load_spec
from tests.cli.conftest import refused
from tests.commands import call


@pytest.mark.slow
def test_json_is_the_whole_answer(finished: Path, tmp_path: Path) -> None:
    ended = call("reproduce", "tiny", "--out", tmp_path / "again", "--json", folder=finished)
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer.keys() == {"spec_path", "record_path", "run_id", "differences"}
    assert answer["differences"] == []
    record = json.loads(Path(answer["record_path"]).read_text())
    assert record["run_id"] == answer["run_id"] and record["best"]["sha256"]
    assert load_spec(answer["spec_path"]).name == "tiny"


@pytest.mark.slow
def test_differences_are_named_in_both_forms(finished: Path, tmp_path: Path) -> None:
    for path in (finished / "runs" / "tiny").glob("step-*/weights.safetensors"):
        path.rename(path.with_suffix(".away"))
    try:
        asked = ("reproduce", "tiny", "--out", tmp_path / "again")
        words = call(*asked, folder=finished)
        answer = json.loads(call(*asked, "--json", folder=finished).out)
    finally:
        for path in (finished / "runs" / "tiny").glob("step-*/weights.away"):
            path.rename(path.with_suffix(".safetensors"))
    (difference,) = answer["differences"]
    assert difference["what"].startswith("best checkpoint (") and difference["now"] == "missing"
    assert "differs: best checkpoint (" in words.err and "there then, missing now" in words.err
    assert words.out == f"{tmp_path / 'again' / 'spec.yaml'}\n"


@pytest.mark.slow
def test_an_unknown_run_is_refused(finished: Path, tmp_path: Path) -> None:
    ended = call("reproduce", "tony", "--out", tmp_path / "again", "--json", folder=finished)
    refused(ended, 2, "expected a run id, a run name, a job, an experiment", "tiny")
