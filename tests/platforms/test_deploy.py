"""Endpoints on a platform, through the commands and a platform that lives in this process."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.platforms import PLATFORMS, deploy, model_uri
from adapt.platforms.deploy import facts_of, prepare_endpoint
from adapt.platforms.endpoint import Deployment, EndpointStatus, Serving
from adapt.platforms.platform import Platform, Profile, Request
from adapt.spec.loading import load_spec
from adapt.use.locate import Located
from storage.errors import StoreUnavailable
from storage.stores import Stores
from tests.commands import Ended, call
from tests.platforms.quick import quick_retries


class PretendProfile(Profile):
    """A platform's profile with a key of its own."""

    platform: Literal["pretend"]
    most: int = 1

    def outside(self, path: str) -> str | None:
        return "a share" if path.startswith("/share/") else None


class Pretend:
    """A platform whose endpoint goes through `states`, the last for ever."""

    def __init__(self) -> None:
        self.states: list[EndpointStatus] = [
            EndpointStatus("", "starting", "", "loading the model"),
            EndpointStatus("", "ready", "http://pretend:8080"),
        ]
        self.made: dict[str, Request] = {}
        self.outages = 0
        self.interrupted = False
        self.completed: list[Request] = []

    def deploy(self, request: Request) -> str:
        self.made[request["name"]] = request
        return str(request["name"])

    def status(self, endpoint: str) -> EndpointStatus:
        if self.outages:
            self.outages -= 1
            raise StoreUnavailable("pretend: does not answer")
        if self.interrupted:
            raise KeyboardInterrupt
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return state._replace(endpoint=endpoint)

    def logs(self, endpoint: str, follow: bool) -> Iterator[str]:
        yield f"log of {endpoint}, {follow}"

    def complete(self, request: Request) -> None:
        self.completed.append(request)

    def undeploy(self, endpoint: str) -> None:
        del self.made[endpoint]

    def endpoints(self) -> list[EndpointStatus]:
        return [self.status(name) for name in self.made]


def request(deployment: Deployment, profile: PretendProfile) -> Request:
    return {"name": deployment.name, "model": deployment.model, "image": profile.image}


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    pretend = Pretend()

    def connect(_profile: PretendProfile, _environment: Mapping[str, str]) -> Pretend:
        return pretend

    serving = Serving(
        request=request,
        connect=connect,
        replicas=lambda profile: (1, profile.most),
        reach=lambda _deployment, _profile: "whoever pretends",
        access=lambda _profile: "open",
        takes_paths=True,
        after_ready=lambda profile: "its autoscaler" if profile.most > 1 else "",
    )
    row = Platform(
        profile=PretendProfile,
        request=lambda *_: {},
        connect=lambda *_: None,  # type: ignore[arg-type, return-value]
        grace_s=lambda _profile: 60,
        restarts=lambda _profile: False,
        predict=lambda *_: {},
        serving=serving,
    )
    monkeypatch.setitem(PLATFORMS, "pretend", row)
    monkeypatch.setattr(deploy, "POLL_S", 0.001)
    quick_retries(monkeypatch)
    return pretend


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights.safetensors").touch()
    values = {"platform": "pretend", "image": "segadapt:1", "gpus": 0, "price_per_hour": 0.5}
    (tmp_path / "pretend.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def run(folder: Path, *words: str) -> Ended:
    return call(*words, folder=folder)


DEPLOY = ("deploy", "best", "--to", "pretend.yaml", "--yes")


def test_a_model_is_deployed_watched_and_removed(platform: Pretend, folder: Path) -> None:
    platform.outages = 2
    made = run(folder, *DEPLOY, "--json")
    assert made.code == 0, made.err
    answer = json.loads(made.out)
    assert answer == {
        "endpoint": "best", "state": "ready", "url": "http://pretend:8080", "detail": ""
    }  # fmt: skip
    assert platform.made["best"]["model"] == str(folder / "best")
    for fact in ("whoever pretends", "1 x CPU", "0.50 USD an hour, until `undeploy`", "open"):
        assert fact in made.err
    assert "best ready at http://pretend:8080" in made.err
    assert "remove: segadapt undeploy best" in made.err
    assert json.loads(run(folder, "endpoints", "--json").out) == [answer]
    assert "best" in run(folder, "endpoints", "--to", "pretend.yaml").out
    shown = run(folder, "endpoints", "status", "best").out
    assert shown == "best ready at http://pretend:8080\n"
    assert run(folder, "endpoints", "logs", "best").out == "log of best, False\n"
    gone = run(folder, "undeploy", "best", "--yes")
    assert gone.code == 0 and "best: removed" in gone.err and platform.made == {}
    assert json.loads(run(folder, "endpoints", "--json").out) == []


def test_a_dry_run_prints_the_request_and_sends_nothing(platform: Pretend, folder: Path) -> None:
    shown = run(folder, *DEPLOY, "--dry-run", "--set", "image=other:2", "--name", "town")
    assert yaml.safe_load(shown.out) == {
        "name": "town", "model": str(folder / "best"), "image": "other:2"
    }  # fmt: skip
    assert platform.made == {}


def test_without_yes_it_asks_and_a_script_is_told(platform: Pretend, folder: Path) -> None:
    asked = run(folder, *DEPLOY[:-1])
    assert asked.code == 2 and "deploy: stdin is not a terminal. Fix: pass --yes." in asked.err
    assert platform.made == {}


def test_an_endpoint_that_fails_shows_the_end_of_its_log(platform: Pretend, folder: Path) -> None:
    platform.states = [EndpointStatus("", "failed", "", "out of memory")]
    made = run(folder, *DEPLOY)
    assert made.code == 2 and "log of best, False" in made.err
    assert "best: expected a ready endpoint, got failed: out of memory" in made.err
    assert "remove it with `segadapt undeploy best`" in made.err
    assert "best" in platform.made, "it stays, for its log"


def test_without_waiting_it_ends_immediately(platform: Pretend, folder: Path) -> None:
    assert json.loads(run(folder, *DEPLOY, "--no-wait", "--json").out)["state"] == "starting"


def test_what_only_a_ready_endpoint_takes_comes_last(platform: Pretend, folder: Path) -> None:
    scaled = (*DEPLOY, "--set", "most=3")
    told = run(folder, *scaled, "--no-wait")
    assert told.code == 2 and platform.made == {}
    assert "--no-wait: expected --wait, since its autoscaler can be made only when" in told.err
    platform.interrupted = True
    stopped = run(folder, *scaled)
    assert stopped.code == 130 and platform.completed == []
    assert "only the waiting ended, and its autoscaler was not made: undeploy and" in stopped.err
    platform.interrupted = False
    assert run(folder, *scaled).code == 0
    assert platform.completed == [platform.made["best"]]


def test_an_endpoint_that_is_late_is_told(
    platform: Pretend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(JobError, match="expected a ready endpoint within 0 minutes, got starting"):
        deploy.wait_until_ready(Late(), "town", lambda *_: None, limit_s=0.0)


class Late(Pretend):
    def status(self, endpoint: str) -> EndpointStatus:
        return EndpointStatus(endpoint, "starting")


def test_an_endpoint_that_is_not_known_here(platform: Pretend, folder: Path) -> None:
    run(folder, *DEPLOY)
    told = run(folder, "undeploy", "bets", "--yes")
    assert told.code == 2
    assert "NAME: expected an endpoint that was deployed from here, got 'bets'; did you" in told.err


def test_a_damaged_record_and_one_that_cannot_be_written(platform: Pretend, folder: Path) -> None:
    (folder / "state" / "segadapt").mkdir(parents=True)
    records = folder / "state" / "segadapt" / "endpoints.jsonl"
    records.write_text("{}\n[")
    assert "expected the record of an endpoint, got a damaged one" in run(folder, "endpoints").err
    records.unlink()
    records.with_suffix(".new").mkdir()
    told = run(folder, *DEPLOY)
    assert told.code == 2 and "the endpoints that were deployed from here cannot be" in told.err


def profile(**changes: Any) -> PretendProfile:
    return validate(PretendProfile, {"platform": "pretend", "image": "i", "gpus": 0} | changes)


def test_a_platform_that_serves_nothing(
    platform: Pretend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLATFORMS, "pretend", replace(PLATFORMS["pretend"], serving=None))
    with pytest.raises(JobError, match="platform: expected one that serves models, got pretend"):
        prepare_endpoint("best", profile(), Stores({}))


def test_the_best_checkpoint_of_a_run_is_what_is_served(platform: Pretend, folder: Path) -> None:
    step = folder / "runs" / "town" / "step-00000500"
    step.mkdir(parents=True)
    for name in ("weights.safetensors", "manifest.json"):
        (step / name).write_text("{}")
    plan = prepare_endpoint(f"{folder}/runs/town", profile(), Stores({}))
    assert plan.deployment == Deployment("town", str(step), f"{folder}/runs/town")
    file = prepare_endpoint(f"{step}/weights.safetensors", profile(), Stores({})).deployment
    assert (file.name, file.is_file, file.model) == ("town", True, f"{step}/weights.safetensors")
    job = load_spec("toy_town/source_only")
    spec = prepare_endpoint(f"{folder}/runs/town", profile(), Stores({}), spec=job).deployment.spec
    assert spec is not None and load_spec("env:S", (), {"S": spec}).stores == job.stores
    shared = prepare_endpoint("/share/town", profile(), Stores({})).deployment
    assert shared.model == "/share/town", "the platform alone has it"


@pytest.mark.parametrize("of_version", ["ab" * 32, None])
def test_the_sha256_goes_to_the_server(
    of_version: str | None, platform: Pretend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the registry, else that of the checkpoint's manifest."""
    best = folder / "best"
    manifest = {"sha256": {"weights.safetensors": "cd" * 32}}
    (best / "manifest.json").write_text(json.dumps(manifest))
    version = Located(f"{best}/weights.safetensors", of_version)
    monkeypatch.setattr(model_uri, "registered", lambda *_: version)
    deployment = prepare_endpoint("models:/town@best", profile(), Stores({})).deployment
    expected = of_version or "cd" * 32
    assert deployment.sha256 == expected
    variables = deployment.environment(profile(), "/opt/ml/model", 30)
    assert variables["SEGADAPT_MODEL_SHA256"] == expected
    unknown = deployment._replace(sha256=None).environment(profile(), "/opt/ml/model", 30)
    assert "SEGADAPT_MODEL_SHA256" not in unknown


def test_the_price_of_several_replicas(platform: Pretend, folder: Path) -> None:
    scaled = profile(most=4, price_per_hour=0.5, gpus=1)
    facts = facts_of(prepare_endpoint(f"{folder}/best", scaled, Stores({})))
    assert facts["price"] == "0.50 to 2.00 USD an hour, until `undeploy`"
    assert facts["platform"] == "pretend, 1 to 4 x 1 GPU"
