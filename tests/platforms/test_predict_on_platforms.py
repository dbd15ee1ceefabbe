"""The jobs of `predict --to` beside the strict doubles of platforms: sent, followed, stopped."""

from typing import Any

import pytest

from adapt.platforms import PLATFORMS
from tests.platforms.kubernetes_double import Cluster
from tests.platforms.kubernetes_jobs import Connect
from tests.platforms.modelarts_double import ModelArtsDouble
from tests.platforms.modelarts_jobs import connected
from tests.platforms.modelarts_samples import SMALL, profile_of
from tests.platforms.predict_samples import SET
from tests.platforms.test_kubernetes_manifests import profile as kubernetes_profile

NAME = SET.name
LABELS = {
    "batch.kubernetes.io/job-name": NAME,
    "batch.kubernetes.io/job-completion-index": "1",
}


def failed_indexes() -> dict[str, Any]:
    """The status of an Indexed Job whose other indexes are done."""
    message = "Job has failed indexes"
    condition = {"type": "Failed", "status": "True", "reason": "FailedIndexes", "message": message}
    return {"conditions": [condition], "failedIndexes": "1", "completedIndexes": "0"}


def test_a_cluster_takes_watches_and_stops_the_indexed_job(cluster: Cluster, at: Connect) -> None:
    client = at()
    ((name, request),) = PLATFORMS["kubernetes"].predict(SET, kubernetes_profile()).items()
    assert client.submit(request) == name == NAME
    assert client.status(NAME).state == "waiting"
    cluster.add_pod(f"{NAME}-1", LABELS)
    cluster.logs[f"{NAME}-1"].write("predicting")
    assert client.status(NAME).state == "running"
    assert [one.job for one in client.jobs()] == [NAME]
    assert list(client.logs(NAME, follow=False)) == ["predicting"]
    cluster.end_pod(f"{NAME}-1", 4, "DataError 1 bad file")
    cluster.job("batch/v1", "jobs", NAME)["status"] = failed_indexes()
    status = client.status(NAME)
    assert (status.state, status.exit_code) == ("failed", 4)
    assert "FailedIndexes" in status.detail and "1 bad file" in status.detail
    second = SET._replace(name=f"{NAME}x")
    ((other, request),) = PLATFORMS["kubernetes"].predict(second, kubernetes_profile()).items()
    client.submit(request)
    client.stop(other)
    assert cluster.job("batch/v1", "jobs", other)["spec"]["suspend"] is True


@pytest.mark.usefixtures("no_proxy")
def test_modelarts_takes_a_job_for_each_slice(modelarts: ModelArtsDouble) -> None:
    client = connected(modelarts, {"OBS_ACCESS_KEY": "swordfish"})
    profile = profile_of(SMALL, secrets=["OBS_ACCESS_KEY"])
    jobs = [client.submit(one) for one in PLATFORMS["modelarts"].predict(SET, profile).values()]
    bodies = [modelarts.jobs[job].body for job in jobs]
    assert [one["algorithm"]["command"][-3:] for one in bodies] == ["0/2", "1/2"]
    assert bodies[0]["algorithm"]["environments"]["OBS_ACCESS_KEY"] == "swordfish"
    assert len(list(client.jobs())) == 2
    client.stop(jobs[0])
    assert [client.status(jobs[0]).state for _ in range(2)][-1] == "stopped"
