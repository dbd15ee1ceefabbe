"""`predict --to`: the whole way on a platform whose jobs run in this process."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from adapt.config.strict_yaml import read_yaml
from adapt.config.validation import validate
from adapt.data.label_maps import LABEL_SPACES
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms import PLATFORMS
from adapt.platforms.platform import JobStatus, Platform, Profile, Request
from adapt.platforms.predict_jobs import Asked, facts_of, prepare_prediction
from adapt.platforms.prediction import Prediction
from storage.errors import StoreUnavailable
from storage.stores import Stores
from tests.commands import Ended, call
from tests.platforms.predict_samples import NOW
from tests.use.conftest import files_in, write_images


class PretendProfile(Profile):
    """A platform's profile; all absolute paths are a share of its machines."""

    platform: Literal["pretend"]

    def outside(self, path: str) -> str | None:
        return f"a share at {path}" if path.startswith("/") else None


class Pretend:
    """A platform that runs its jobs while they are submitted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ended = folder, dict[str, Ended]()
        self.away_after: int | None = None

    def submit(self, request: Request) -> str:
        if self.away_after is not None and len(self.ended) >= self.away_after:
            raise StoreUnavailable("pretend: is away")
        self.ended[request["name"]] = call(
            *request["words"], folder=self.folder, environment=request["variables"]
        )
        return str(request["name"])

    def status(self, job: str) -> JobStatus:
        code = self.ended[job].code
        return JobStatus(job, "failed" if code else "done", "", code)

    def jobs(self) -> Iterator[JobStatus]:
        yield from map(self.status, self.ended)


def requests(prediction: Prediction, profile: PretendProfile) -> dict[str, Request]:
    return {
        prediction.name_of(number): {
            "name": prediction.name_of(number),
            "words": prediction.arguments(number),
            "variables": prediction.environment(profile, 30),
        }
        for number in prediction.slices
    }


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend(tmp_path)

    def connect(_profile: PretendProfile, _environment: Mapping[str, str]) -> Any:
        return pretend

    row = Platform(
        profile=PretendProfile,
        request=lambda *_: {},
        connect=connect,
        grace_s=lambda _profile: 60,
        restarts=lambda _profile: False,
        predict=requests,
    )
    monkeypatch.setitem(PLATFORMS, "pretend", row)
    values = {"platform": "pretend", "image": "segadapt:1", "gpus": 0, "price_per_hour": 0.5}
    (tmp_path / "pretend.yaml").write_text(yaml.safe_dump(values))
    torch.manual_seed(1)
    model = {"architecture": "deeplab_v2", "encoder": "test_resnet", "output_stride": 16}
    segmenter = build_segmenter({**model, "weights": "none"}, 19)
    space = LABEL_SPACES["cityscapes19"]
    header = FileHeader(segmenter.config, 19, segmenter.pixels, space, (32, 48))
    write_weights(segmenter.state_dict(), header.entries(), tmp_path / "weights.safetensors")
    write_images(tmp_path / "photos", [f"{number}.png" for number in range(5)])
    return pretend


def run(folder: Path, *more: object) -> Ended:
    words = ("predict", folder / "weights.safetensors", folder / "photos", "--out", folder / "seen")
    return call(*words, "--to", "pretend.yaml", "--write", "ids", *more, folder=folder)


def test_slices_on_a_platform_write_what_one_command_would(
    platform: Pretend, tmp_path: Path
) -> None:
    sent = run(tmp_path, "--slices", 3, "--yes", "--json")
    assert sent.code == 0, sent.err
    names = [one["job"] for one in json.loads(sent.out)["jobs"]]
    assert names == [*platform.ended] and len(names) == 3
    assert all(ended.code == 0 for ended in platform.ended.values())
    for fact in (
        "pretend, 3 jobs x CPU",
        "1.50 USD an hour while all run",
        f"writes {tmp_path / 'seen'}",
        "--slice I/N submits one slice again",
    ):
        assert fact.replace(" ", "") in "".join(sent.err.split()), sent.err
    assert len(files_in(tmp_path / "seen/ids")) == 5
    assert len((tmp_path / "seen/shares.csv").read_text().splitlines()) == 6
    shown = call("jobs", folder=tmp_path).out
    assert shown.count("done") == 3
    assert call("status", names[1], folder=tmp_path).out.startswith(f"{names[1]} done")


@pytest.mark.slow
def test_one_slice_is_predicted_again_alone(platform: Pretend, tmp_path: Path) -> None:
    run(tmp_path, "--slices", 2, "--yes")
    whole = files_in(tmp_path / "seen/ids")
    (tmp_path / "seen/ids/4.png").unlink()
    platform.ended.clear()
    again = run(tmp_path, "--slice", "1/2", "--yes")
    assert again.code == 0 and len(platform.ended) == 1, again.err
    ((name, ended),) = platform.ended.items()
    assert name.endswith("-1") and "2 written before" in ended.err
    assert files_in(tmp_path / "seen/ids") == whole


def test_a_slice_refuses_weights_of_another_sha256(platform: Pretend, tmp_path: Path) -> None:
    words = ("predict", "weights.safetensors", "photos", "--out", "seen")
    other = {"SEGADAPT_PREDICT_SHA256": "00" * 32}
    ended = call(*words, folder=tmp_path, environment=other)
    assert ended.code == 4 and "expected sha256 0000" in ended.err


def test_a_dry_run_and_a_no_send_nothing(platform: Pretend, tmp_path: Path) -> None:
    shown = run(tmp_path, "--slices", 2, "--dry-run", "--threads", 3, "--overwrite")
    assert shown.code == 0, shown.err
    first, _ = yaml.safe_load(shown.out).values()
    assert first["words"] == [
        "predict", str(tmp_path / "weights.safetensors"), str(tmp_path / "photos"),
        "--out", str(tmp_path / "seen"), "--write", "ids", "--overwrite", "--threads", "3",
        "--slice", "0/2",
    ]  # fmt: skip
    asked = run(tmp_path, "--slices", 2)
    assert asked.code == 2 and "predict: stdin is not a terminal" in asked.err
    assert platform.ended == {}


def test_what_was_submitted_before_an_outage_is_told(platform: Pretend, tmp_path: Path) -> None:
    platform.away_after = 2
    sent = run(tmp_path, "--slices", 3, "--yes")
    assert sent.code == 3 and "pretend: is away" in sent.err
    assert "2 of 3 jobs were submitted; --slice I/N submits one more" in sent.err
    assert call("jobs", folder=tmp_path).out.count("done") == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--slices", 2, "--slice", "1/4"), "--slices: expected none beside --slice 1/4, got 2"),
        (("--slice", "4/4"), "--slice: expected I/N with I from 0 to N - 1"),
        (("--slice", "0/1001"), "--slice: expected at most 1000, got 1001"),
        (("--frames", 3), "--frames: expected none beside --to, got one"),
        (("--checkpoint", "x"), "expected none beside --checkpoint, got one"),
        (("--colours",), "--colours: expected --checkpoint beside it, got none"),
        (("7",), "INPUT: expected pictures or videos that other machines can read, got camera 7"),
        (("--set", "imagee=x"), "imagee: unknown key"),
    ],
)
def test_wrong_usage_is_refused(
    more: tuple[object, ...], said: str, platform: Pretend, tmp_path: Path
) -> None:
    ended = run(tmp_path, *more, "--yes")
    assert ended.code == 2 and said in ended.err, ended.err
    assert platform.ended == {}


@pytest.mark.parametrize("more", [("--slices", 2), ("--dry-run",), ("--yes",)], ids=str)
def test_options_of_jobs_need_a_platform(more: tuple[object, ...], tmp_path: Path) -> None:
    ended = call("predict", "w.safetensors", "photos", "--out", "seen", *more, folder=tmp_path)
    assert ended.code == 2 and f"{more[0]}: expected --to beside it, got none" in ended.err


@pytest.mark.usefixtures("unpinned")
def test_the_facts_of_many_and_of_one(platform: Pretend, tmp_path: Path) -> None:
    def plan(**changes: Any) -> dict[str, str]:
        asked = Asked("https://host/town/weights.safetensors", ["s3://b/photos"], "s3://b/seen",
                      [], None, "0/1")._replace(**changes)  # fmt: skip
        values = read_yaml(tmp_path / "pretend.yaml")
        made = prepare_prediction(asked, validate(PretendProfile, values), Stores({}), now=NOW)
        return facts_of(made)

    many = plan(num_slices=200)
    assert many["jobs"] == "predict-town-261130-120000-*"
    assert many["price"] == "100.00 USD an hour while all run"
    one = plan(part="3/8")
    assert one["platform"] == "pretend, 1 job (slice 3/8 alone) x CPU"
    assert one["jobs"] == "predict-town-261130-120000-3"


@pytest.mark.usefixtures("unpinned")
def test_a_run_s_name_leaves_room_for_the_numbers(platform: Pretend, tmp_path: Path) -> None:
    long = f"https://host/{'town-' * 12}/weights.safetensors"
    asked = Asked(long, ["s3://b/photos"], "s3://b/seen", [], 1000, "0/1")
    made = prepare_prediction(asked, replace_profile(tmp_path), Stores({}), now=NOW)
    assert max(map(len, made.requests)) <= 40


def replace_profile(folder: Path) -> PretendProfile:
    return validate(PretendProfile, read_yaml(folder / "pretend.yaml"))
