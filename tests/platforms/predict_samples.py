"""Sets to predict, and profiles of every platform that can, for the tests of `predict --to`."""

from datetime import UTC, datetime
from typing import Any

from adapt.platforms import PLATFORMS, load_profile
from adapt.platforms.platform import Request
from adapt.platforms.predict_jobs import Asked
from adapt.platforms.prediction import Prediction
from tests.commands import ROOT
from tests.platforms.modelarts_samples import SMALL as MODELARTS
from tests.platforms.modelarts_samples import profile_of

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
    "slurm": lambda: profile("slurm"),
    "sky": lambda: profile("sky"),
    "modelarts": lambda: profile_of(MODELARTS, secrets=["OBS_ACCESS_KEY"], nodes=1, cuda=12),
}


def requests_of(platform: str, prediction: Prediction = SET) -> dict[str, Request]:
    return PLATFORMS[platform].predict(prediction, PROFILES[platform]())


ASKED = Asked("https://host/w.pt", ["s3://my-bucket/photos"], "s3://my-bucket/seen", [], 4, "0/1")
