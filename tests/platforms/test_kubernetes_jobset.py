"""JobSets: where their nodes meet, what restarts or ends them, and how long their names may be."""

import re

import pytest

from adapt.errors import JobError
from adapt.platforms.platform import Submission
from tests.platforms.kubernetes_schemas import faults
from tests.platforms.test_kubernetes_manifests import ROW, job, profile, request, variables


def test_nodes_of_a_jobset_meet_at_the_name_that_it_gives_the_first_one() -> None:
    asked = request(kind="jobset", nodes=3, gpus=2)
    assert [item["kind"] for item in asked["items"]] == ["ConfigMap", "JobSet"]
    told, spec = variables(asked), asked["items"][-1]["spec"]
    assert spec["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
    (job,) = spec["replicatedJobs"]
    assert told["PET_MASTER_ADDR"] == f"tiny-1-{job['name']}-0-0.tiny-1"
    assert (told["PET_NNODES"], told["PET_NPROC_PER_NODE"]) == ("3", "2")
    assert job["template"]["spec"]["completions"] == 3 and job["replicas"] == 1
    assert "PET_MASTER_ADDR" not in variables(request(kind="jobset"))


DISRUPTED = "Pod lab/tiny-1-node-0-1-ab12c has condition DisruptionTarget matching FailJob rule at "
BAD_DATA = "Container main for pod lab/tiny-1-node-0-1-ab12c failed with exit code 4 matching "


@pytest.mark.parametrize(
    ("reason", "message", "action"),
    [
        ("PodFailurePolicy", DISRUPTED + "index 0", "RestartJobSetAndIgnoreMaxRestarts"),
        ("PodFailurePolicy", BAD_DATA + "FailJob rule at index 1", "FailJobSet"),
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit", "RestartJobSet"),
    ],
)
def test_a_jobset_restarts_what_another_attempt_can_mend(
    reason: str, message: str, action: str
) -> None:
    """The first rule counts that matches the reason and the message of a failed Job."""
    spec = request(kind="jobset", nodes=2, restarts=5)["items"][-1]["spec"]
    (job,) = (one["template"]["spec"] for one in spec["replicatedJobs"])
    disrupted, codes = job["podFailurePolicy"]["rules"]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert (disrupted["action"], codes["action"]) == ("FailJob", "FailJob")
    assert codes["onExitCodes"]["values"] == [1, 2, 4] and job["backoffLimit"] == 0
    policy = spec["failurePolicy"]
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (5, "BlockingRecreate")
    matching = [
        rule["action"]
        for rule in policy["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(one, message) for one in rule.get("onJobFailureMessagePatterns", [""]))
    ]
    assert [*matching, "RestartJobSet"][0] == action


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_names_leave_room_for_those_of_a_sets_pods(kind: str) -> None:
    """JobSet's webhook refuses longer ones, also those of a TrainJob's set."""
    fits, many = "a" * 45, profile(kind=kind, nodes=1000)
    assert len(f"{fits}-node-0-999-abcde") <= 63
    assert faults(ROW.request(Submission(fits, job()), many)["items"][-1]) == []
    with pytest.raises(JobError, match=r"name: expected .* at most 45 characters"):
        ROW.request(Submission(fits + "a", job()), many)
