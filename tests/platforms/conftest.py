"""Doubles of the platforms as fixtures, with short waits."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from botocore.loaders import JSONFileLoader

from adapt.platforms import deploy, predict_jobs
from adapt.platforms.kubernetes import connect, logs
from adapt.platforms.model_uri import FoundModel
from adapt.platforms.modelarts.client import ModelArtsClient
from adapt.platforms.sagemaker import client as sagemaker_client
from tests.platforms import modelarts_double
from tests.platforms.kubernetes_double import Cluster, serving, write_kubeconfig
from tests.platforms.kubernetes_jobs import Connect
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import connected
from tests.platforms.quick import quick_retries
from tests.platforms.sagemaker_double import SageMakerDouble, aws_double
from tests.platforms.test_kubernetes_manifests import profile


@pytest.fixture
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """MODEL is what was named; its server is not asked for a manifest."""
    for module in (deploy, predict_jobs):
        monkeypatch.setattr(module, "find_model", lambda model, *_, **__: FoundModel(model))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def cluster_url(cluster: Cluster) -> Iterator[str]:
    with serving(cluster) as address:
        yield address


@pytest.fixture
def at(cluster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A client for a profile with these changes."""
    monkeypatch.setattr(logs, "POLL_S", 0.05)
    quick_retries(monkeypatch)
    config = str(write_kubeconfig(tmp_path / "config", cluster_url))
    return lambda **changes: connect(profile(kubeconfig=config, **changes), {})


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached without the proxy that the environment may name."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def modelarts() -> Iterator[ModelArtsDouble]:
    with modelarts_double.modelarts_double() as server:
        yield server


@pytest.fixture
def modelarts_client(no_proxy: None, modelarts: ModelArtsDouble) -> ModelArtsClient:
    return connected(modelarts)


@pytest.fixture(scope="module")
def models_read_once() -> Iterator[None]:
    """botocore reads its large models anew for each session."""
    read = cache(JSONFileLoader().load_file)
    with patch.object(JSONFileLoader, "load_file", lambda _self, path: read(path)):
        yield


@pytest.fixture
def aws(models_read_once: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SageMakerDouble]:
    monkeypatch.setattr(sagemaker_client, "POLL_S", 0.01)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", no_delay)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with aws_double() as double:
        yield double


def no_delay(*_: object) -> float:
    return 0.0
