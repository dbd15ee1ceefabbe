"""`predict --to`: golden requests of every platform, what it refuses, and the whole way on a
platform whose jobs run in this process."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from adapt.config.strict_yaml import read_yaml
from adapt.config.validation import validate
from adapt.data.label_maps import LABEL_SPACES
from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.file_header import FileHeader, write_weights
from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import JobStatus, Platform, Profile, Request
from adapt.platforms.predict_jobs import Asked, facts_of, prepare_prediction
from adapt.platforms.prediction import Prediction
from storage.config import StoreConfig
from storage.errors import StoreUnavailable
from storage.stores import Stores
from tests.commands import ROOT, Ended, call
from tests.platforms.kubernetes_schemas import VERSIONS, faults
from tests.platforms.modelarts_samples import SMALL as MODELARTS
from tests.platforms.modelarts_samples import profile_of
from tests.use.conftest import files_in, write_images

GOLDEN = Path(__file__).parent / "golden"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
SET = Prediction(
    name="predict-town-261130-120000",
    model="s3://my-bucket/runs/town/step-00000500/weights.safetensors",
    asked="models:/town@best",
    inputs=("s3://my-bucket/photos/**/*.jpg", "s3://my-bucket/drive.mp4"),
    out="s3://my-bucket/seen",
    options=("--write", "ids", "--overwrite"),
    num_slices=2,
    slices=(0, 1),
    sha256="ab" * 32,
)
LINKED = SET._replace(
    model="https://host/town/weights.safetensors", inputs=("https://host/a.jpg",), out="s3://b/c"
)


def profile(name: str, *overrides: str) -> Any:
    return load_profile(ROOT / f"job_specs/platforms/{name}.yaml", overrides)


PROFILES = {
    "docker": lambda: profile("docker", "gpus=2", "network=null"),
    "kubernetes": lambda: profile("kubernetes", "gpus=1"),
    "sagemaker": lambda: profile("sagemaker"),
    "modelarts": lambda: profile_of(MODELARTS, secrets=["OBS_ACCESS_KEY"], nodes=1, cuda=12),
}


def requests_of(platform: str, prediction: Prediction = SET) -> dict[str, Request]:
    return PLATFORMS[platform].predict(prediction, PROFILES[platform]())


@pytest.mark.parametrize("platform", PROFILES)
def test_the_requests_are_the_golden_ones(platform: str) -> None:
    """Regenerate golden/*_predict.yaml by hand: a person has to have read a request."""
    found = requests_of(platform)
    assert json.loads(json.dumps(found)) == found
    assert found == yaml.safe_load((GOLDEN / f"{platform}_predict.yaml").read_text())
    assert "&id" not in yaml.safe_dump(found), "a dry run has no anchors"


@pytest.mark.parametrize("platform", PROFILES)
def test_one_slice_alone_and_a_spec_of_the_stores(platform: str) -> None:
    one = SET._replace(slices=(1,), spec="SPEC" * 700, out="s3://my-bucket/seen")
    ((name, request),) = requests_of(platform, one).items()
    assert name.endswith("predict-town-261130-120000-1")
    text = json.dumps(request)
    assert "--slice" in text and "1/2" in text and "env:SEGADAPT_SPEC_BASE64" in text


def test_every_version_that_can_takes_the_indexed_job() -> None:
    (job,) = requests_of("kubernetes")["predict-town-261130-120000"]["items"]
    for version in (one for one in VERSIONS if one >= "1.29"):
        assert faults(job, version) == []
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "PET_NNODES", "value": "2"} in container["env"]
    assert "--slice" not in container["args"], "pods share the set out by their numbers"
    rule = job["spec"]["podFailurePolicy"]["rules"][1]
    assert rule["action"] == "FailIndex" and 4 in rule["onExitCodes"]["values"]


def test_the_gpus_of_an_engine_are_shared_out() -> None:
    many = SET._replace(num_slices=5, slices=tuple(range(5)))
    asked = requests_of("docker", many).values()
    ids = [one["body"]["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for one in asked]
    assert ids == [["0"], ["1"], ["0"], ["1"], ["0"]]
    named = PLATFORMS["docker"].predict(many, profile("docker", "gpus=2", "gpu_ids=[GPU-a, GPU-b]"))
    last = [*named.values()][-1]["body"]["HostConfig"]["DeviceRequests"][0]
    assert last["DeviceIDs"] == ["GPU-a"]
    none = PLATFORMS["docker"].predict(SET, profile("docker", "gpus=0"))
    body = none["predict-town-261130-120000-0"]["body"]
    assert "DeviceRequests" not in body["HostConfig"]
    assert "NVIDIA_VISIBLE_DEVICES=void" in body["Env"]


@pytest.mark.parametrize(
    ("platform", "overrides", "said"),
    [
        ("kubernetes", ["gpus=4"], "gpus: expected 0 or 1, since a slice uses one GPU, got 4"),
        (
            "kubernetes",
            ["gpus=1", "kind=pytorchjob"],
            "kind: expected indexed_job for `predict --to`",
        ),
        ("sagemaker", ["instance_type=ml.g5.12xlarge"], "gpus: expected 0 or 1"),
    ],
)
def test_machines_that_no_slice_would_use(platform: str, overrides: list[str], said: str) -> None:
    with pytest.raises(JobError, match=said):
        PLATFORMS[platform].predict(SET, profile(platform, *overrides))


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"model": "/home/me/w.pt"}, "MODEL"), ({"inputs": ("photos",)}, "INPUT"),
     ({"out": "seen"}, "--out")],
)  # fmt: skip
@pytest.mark.parametrize("platform", PROFILES)
def test_a_path_that_the_jobs_do_not_have_is_refused(
    platform: str, changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(JobError, match=f"{key}: expected the URI of a store.*copy it into a store"):
        requests_of(platform, SET._replace(**changes))


def test_a_path_below_a_mount_is_taken_and_results_only_where_it_is_writable() -> None:
    local = LINKED._replace(inputs=("/photos/a",), out="/seen/b")
    mounts = "mounts=[{source: /a, target: /photos, read_only: true}, {source: /b, target: /seen}]"
    PLATFORMS["docker"].predict(local, profile("docker", "gpus=0", mounts))
    with pytest.raises(JobError, match=r"--out: expected .* a path below /seen \(mounts of the"):
        PLATFORMS["docker"].predict(
            local._replace(out="/photos/b"), profile("docker", "gpus=0", mounts)
        )


def test_plain_http_is_not_read_on_sagemaker() -> None:
    said = r"MODEL: expected the URI of a store \(s3:// or https://\), got 'http://host/w.pt'"
    with pytest.raises(JobError, match=said):
        requests_of("sagemaker", SET._replace(model="http://host/w.pt"))
    requests_of("kubernetes", SET._replace(model="http://host/w.pt"))
    with pytest.raises(JobError, match=r"--out: expected the URI of a store \(s3://.*got 'http"):
        requests_of("kubernetes", SET._replace(out="http://host/seen"))


ASKED = Asked("https://host/w.pt", ["s3://my-bucket/photos"], "s3://my-bucket/seen", [], 4, "0/1")
OBS = {"obs": StoreConfig(endpoint_url="https://obs.cn-north-4.myhuaweicloud.com")}


def modelarts_with_keys() -> Any:
    return profile_of(MODELARTS, secrets=["OBS_ACCESS_KEY"], nodes=1, cuda=12)


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    ("key", "changes"),
    [("MODEL", {"model": "obs://b/w.pt"}), ("INPUT", {"inputs": ["obs://b/photos"]}),
     ("--out", {"out": "obs://b/seen"})],
)  # fmt: skip
def test_a_store_without_settings_that_it_needs_is_refused(
    key: str, changes: dict[str, Any]
) -> None:
    """Its jobs would all fail at their start."""
    asked = ASKED._replace(**changes)
    said = (
        rf"^{key}: expected stores\.obs\.endpoint_url, which 'obs://b/.* needs, got none\. Fix: .*"
    )
    with pytest.raises(JobError, match=said + "--spec SPEC"):
        prepare_prediction(asked, modelarts_with_keys(), Stores({}))
    prepare_prediction(asked, modelarts_with_keys(), Stores(OBS))
    with pytest.raises(JobError, match=rf'^{key}: expected stores\["obs://b"\]\.endpoint_url'):
        prepare_prediction(asked, modelarts_with_keys(), Stores({**OBS, "obs://b": StoreConfig()}))


@pytest.mark.usefixtures("unpinned")
@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9/w.pt", "https://localhost/w", "http://[::1]/w"]
)
@pytest.mark.parametrize("platform", PROFILES)
def test_a_server_of_this_machine_is_not_reached(platform: str, uri: str) -> None:
    said = f"MODEL: expected a server that {platform} reaches, got .* which is each machine's own"
    with pytest.raises(JobError, match=said):
        prepare_prediction(ASKED._replace(model=uri), PROFILES[platform](), Stores({}))


@pytest.mark.usefixtures("unpinned")
def test_the_machine_s_own_network_reaches_its_servers() -> None:
    asked = ASKED._replace(model="http://127.0.0.1:9/w.pt")
    shared = profile("docker", "gpus=0", "network=host")
    assert prepare_prediction(asked, shared, Stores({})).prediction.model == asked.model


@pytest.mark.parametrize("platform", PROFILES)
def test_mistakes_of_one_command_are_told_together(platform: str) -> None:
    asked = ASKED._replace(model="best", inputs=["photos", "7", "obs://b/c"], out="seen")
    with pytest.raises(JobError) as raised:
        prepare_prediction(asked, PROFILES[platform](), Stores({}))
    told = str(raised.value)
    for said in ("MODEL: expected the URI of a store (s3://", "got 'best'", "got 'photos'",
                 "got camera 7", "INPUT: expected stores.obs.endpoint_url",
                 "--out: expected the URI of a store (s3://"):  # fmt: skip
        assert said in told, told


def test_keys_that_the_jobs_of_a_platform_do_not_get() -> None:
    with pytest.raises(JobError, match=r"--out: expected the URI of a store \(s3://\), got"):
        requests_of("sagemaker", SET._replace(out="obs://bucket/seen"))
    with pytest.raises(JobError, match=r"secrets: expected the keys with which jobs reach 's3://"):
        PLATFORMS["modelarts"].predict(SET, profile_of(MODELARTS))
    with pytest.raises(JobError, match=r"secrets: expected the keys with which jobs reach 'az://"):
        PLATFORMS["modelarts"].predict(LINKED._replace(out="az://c/seen"), profile_of(MODELARTS))


def test_a_spec_that_is_too_long_for_its_variable() -> None:
    with pytest.raises(JobError, match="--spec: expected at most 4096 characters in base64, got"):
        requests_of("modelarts", SET._replace(spec="x" * 5000))
    with pytest.raises(JobError, match="--spec: expected at most 131072 characters in base64"):
        requests_of("docker", SET._replace(spec="x" * 140_000))


def test_an_argument_that_is_too_long_for_sagemaker() -> None:
    with pytest.raises(JobError, match=r"ContainerArguments.*expected at most 256 characters"):
        requests_of("sagemaker", SET._replace(inputs=(f"s3://my-bucket/{'x' * 300}",)))


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
def test_the_pods_of_one_job_are_told() -> None:
    asked = Asked("https://host/town/weights.safetensors", ["s3://b/photos"], "s3://b/seen", [],
                  4, "0/1")  # fmt: skip
    shown = facts_of(prepare_prediction(asked, PROFILES["kubernetes"](), Stores({}), now=NOW))
    assert shown["platform"] == "kubernetes, 1 job of 4 pods x 1 GPU"


@pytest.mark.usefixtures("unpinned")
def test_a_run_s_name_leaves_room_for_the_numbers(platform: Pretend, tmp_path: Path) -> None:
    long = f"https://host/{'town-' * 12}/weights.safetensors"
    asked = Asked(long, ["s3://b/photos"], "s3://b/seen", [], 1000, "0/1")
    made = prepare_prediction(asked, replace_profile(tmp_path), Stores({}), now=NOW)
    assert max(map(len, made.requests)) <= 40


def replace_profile(folder: Path) -> PretendProfile:
    return validate(PretendProfile, read_yaml(folder / "pretend.yaml"))
