"""The embedded default, shortened: it renders, packs, trains three jobs, and says what came out."""

import io
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from adapt.cli import demo
from adapt.errors import JobError
from adapt.places import Place


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images, few steps."""
    monkeypatch.setattr(demo, "GAME_IMAGES", 8)
    monkeypatch.setattr(demo, "CAMERA_IMAGES", {"train": 8, "val": 2, "test": 3})
    full = demo.demo_job

    def shortened(*given: Any) -> Any:
        job = full(*given)
        train = job.train.model_copy(update={"steps": 2, "log_every_steps": 1})
        return job.model_copy(update={"train": train})

    monkeypatch.setattr(demo, "demo_job", shortened)


def run(out: Path, method: str = "advent") -> tuple[demo.DemoResult, str]:
    console = Console(file=io.StringIO(), width=200)
    place = Place("local", {}, out / "scratch")
    result = demo.run_demo(out, 1, method, place, console, Event())
    assert isinstance(console.file, io.StringIO)
    return result, console.file.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_demo_ends_with_table_picture_and_the_next_command(tmp_path: Path) -> None:
    result, said = run(tmp_path)
    gain = 100 * result.gain
    words = f"advent gains {gain:.1f}" if gain > 0 else f"advent did not gain here: {gain:.1f}"
    assert words in said and "sidewalk" in said and "mlflow ui" in said
    assert str(result.picture_path) in said
    assert Image.open(result.picture_path).width > 500
    layout = tmp_path / "raw" / "camera" / "gtFine" / "val" / "toytown"
    assert len(list(layout.glob("*_gtFine_labelIds.png"))) == 2

    again, said = run(tmp_path)
    assert again.gain == result.gain and "step 1/2" not in said, "what is done is not done again"


def test_an_unknown_method_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--method: .*got 'adven'; did you mean 'advent'"):
        run(tmp_path, "adven")
    assert not list(tmp_path.iterdir())


def test_the_demos_jobs_lie_under_its_folder(tmp_path: Path) -> None:
    for path in sorted(demo.SPECS.glob("*.yaml")):
        job = demo.demo_job(path.stem, tmp_path, 7)
        assert job.seed == 7
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
