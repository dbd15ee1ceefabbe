"""Commands on runs that are there: report and compare."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from adapt.cli import report
from adapt.cli.main import main
from tests.cli.conftest import refused
from tests.commands import call


def test_report_is_made_again(finished: Path) -> None:
    first = (finished / "runs" / "tiny" / "report.html").read_text()
    ended = call("report", "runs/tiny", "--out", "pages/again.html", folder=finished)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == "pages/again.html" and "tiny: step 4 of 4" in ended.err
    again = (finished / "pages" / "again.html").read_text()
    assert "step 4 of 4, finished" in first and "step 4 of 4, finished" in again
    assert "its first evaluation, step 2" in again or "its only evaluation" in again


def test_report_compares_with_a_baseline_and_has_a_price(finished: Path) -> None:
    shutil.copytree(finished / "runs" / "tiny", finished / "runs" / "other", dirs_exist_ok=True)
    ended = call(
        *("report", "runs/tiny", "--baseline", "runs/other", "--price-per-hour", "3.5"),
        *("--currency", "EUR", "--json"),
        folder=finished,
    )
    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["page"] == "report.html" and answer["runs"][0]["step"] == 4
    page = (finished / "report.html").read_text()
    assert "Compared with tiny, step" in page and "at 3.5 EUR a node an hour" in page


def test_compare_shows_several_runs(finished: Path) -> None:
    shutil.copytree(finished / "runs" / "tiny", finished / "runs" / "other", dirs_exist_ok=True)
    ended = call("compare", "runs/tiny", "runs/other", "--json", folder=finished)
    assert ended.code == 0, ended.err
    assert [one["run"] for one in json.loads(ended.out)["runs"]] == ["tiny", "tiny"]
    page = (finished / "compare.html").read_text()
    assert "tiny (1)" in page and "tiny (2)" in page


@pytest.mark.slow
def test_wrong_runs_are_refused(finished: Path) -> None:
    refused(call("compare", "runs/tiny", folder=finished), 2, "RUN: expected two runs or more")
    missing = call("report", "runs/missing", folder=finished)
    refused(missing, 4, "expected a run's folder with a checkpoint that has a history, got none")
    (finished / "file").write_text("")
    blocked = call("report", "runs/tiny", "--out", "file/page.html", folder=finished)
    refused(blocked, 3, "expected folders as parts of the path, got a file")


def test_the_end_of_a_file_is_no_end_of_the_keyboard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """click takes every `EOFError` for it, and says no more than Aborted."""

    def ended(*_values: object) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr(report, "stores_of", ended)
    monkeypatch.setattr(sys, "argv", ["segadapt", "report", "runs/a"])
    assert main() == 1
    messages = capsys.readouterr().err
    assert "expected a whole file, got its end: Ran out of input" in messages
    assert "this is a bug in SegAdapt" in messages and "Aborted" not in messages
