"""The embedded default, shortened: it renders, packs, trains its jobs, and says what came out."""

import io
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from adapt.cli import demo
from adapt.errors import JobError
from adapt.places import Place


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images."""
    monkeypatch.setattr(demo, "GAME_IMAGES", 8)
    monkeypatch.setattr(demo, "CAMERA_IMAGES", {"train": 8, "val": 2, "test": 3})


def run(out: Path, method: str = "dacs") -> tuple[demo.DemoResult, str]:
    console = Console(file=io.StringIO(), width=200)
    place = Place("local", {}, out / "scratch")
    result = demo.run_demo(out, 1, method, place, console, Event(), steps=2)
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_demo_ends_with_table_picture_and_the_next_command(tmp_path: Path) -> None:
    result, said = run(tmp_path)
    assert list(result.evaluations) == ["source only", "batch statistics", "dacs", "oracle"]
    gain = result.gain
    words = f"dacs gains {gain:.1f}" if gain > 0 else f"dacs did not gain here: {gain:.1f}"
    assert words in said and "sidewalk" in said and "mlflow ui" in said
    assert f"batch statistics, the control, {result.control_gain:+.1f}: " in said
    rows = [line for line in said.splitlines() if "last, step 2" in line]
    assert [row.split("│")[1].strip() for row in rows] == [
        "source only",
        "batch statistics (control)",
        "dacs",
        "oracle",
    ]
    assert str(result.picture_path) in said
    assert "then open http://127.0.0.1:5000/#/experiments/1?workflowType=machine_learning" in said
    assert Image.open(result.picture_path).width > 500
    layout = tmp_path / "raw" / "camera" / "gtFine" / "val" / "toytown"
    assert len(list(layout.glob("*_gtFine_labelIds.png"))) == 2

    again, said = run(tmp_path)
    assert again.gain == result.gain and "step 2/2" not in said, "what is done is not done again"


def result_of(**mious: float) -> demo.DemoResult:
    """A result whose jobs have these scores; the method is the last but the oracle."""
    evaluations: Any = {
        name.replace("_", " "): SimpleNamespace(
            score=SimpleNamespace(metrics=lambda miou=miou: {"miou": miou})
        )
        for name, miou in mious.items()
    }
    steps = dict.fromkeys(evaluations, 120)
    return demo.DemoResult(evaluations, list(evaluations)[-2], steps, Path("result.png"))


def test_a_gain_is_told_beside_that_of_the_control_and_of_the_oracle() -> None:
    result = result_of(source_only=0.289, batch_statistics=0.335, advent=0.342, oracle=0.5)
    first, control = demo._verdict(result, "advent")
    assert "advent gains 5.3 points of mIoU over source only" in first
    assert "25 % of what the camera's labels would bring" in first
    assert "batch statistics, the control, +4.6: " in control
    assert "advent's losses add +0.7" in control


def test_no_gain_is_told_as_that_and_the_control_alone_has_no_control() -> None:
    scores = {"source_only": 0.3, "batch_statistics": 0.35}
    worse = demo._verdict(result_of(**scores, advent=0.29, oracle=0.5), "advent")
    assert "advent did not gain here: -1.0 points" in worse[0]
    assert "advent's losses add -6.0" in worse[1]
    alone = demo._verdict(result_of(**scores, oracle=0.5), "statistics")
    assert len(alone) == 1 and "statistics gains 5.0 points" in alone[0]


def test_an_oracle_that_gains_nothing_has_no_share() -> None:
    assert result_of(source_only=0.3, minent=0.31, oracle=0.3).closed == 0


def test_the_jobs_and_their_columns() -> None:
    columns = {name: column for name, (column, _) in demo._scored("minent").items()}
    assert columns == {
        "source_only": "source only",
        "statistics": "batch statistics",
        "minent": "minent",
        "oracle": "oracle",
    }
    assert list(demo._scored("statistics")) == ["source_only", "statistics", "oracle"]


def test_an_unknown_method_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--method: .*got 'adven'; did you mean 'advent'"):
        run(tmp_path, "adven")
    assert not list(tmp_path.iterdir())


def test_the_demos_jobs_lie_under_its_folder(tmp_path: Path) -> None:
    for path in sorted(demo.SPECS.glob("*.yaml")):
        job = demo.demo_job(path.stem, tmp_path, 7)
        assert job.seed == 7 and demo.demo_job(path.stem, tmp_path, 7, 3).train.steps == 3
        assert all(uri.startswith(str(tmp_path)) for uri in job.uris().values())


def test_mlflow_is_opened_by_the_program_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, scripts = tmp_path / "a demo", tmp_path / "bin"
    opened = f"ui --backend-store-uri 'sqlite:///{out}/runs/mlflow.db'"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda _kind: str(scripts))
    assert demo._mlflow_command(out) == f"mlflow {opened}"
    scripts.mkdir()
    (scripts / "mlflow").touch(mode=0o755)
    assert demo._mlflow_command(out) == f"{scripts}/mlflow {opened}"
    monkeypatch.setenv("PATH", str(scripts))
    assert demo._mlflow_command(out) == f"mlflow {opened}"
