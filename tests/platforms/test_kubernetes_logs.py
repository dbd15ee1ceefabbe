"""The logs of a job of a cluster: read, and followed over outages."""

import threading
import time
from typing import Any

import pytest

from adapt.errors import JobError
from adapt.platforms.kubernetes import KubernetesClient, api
from storage.errors import StoreUnavailable
from tests.platforms.kubernetes_double import Cluster, ServerAnswer
from tests.platforms.kubernetes_jobs import Connect, asked, complete, pod_labels
from tests.platforms.quick import quick_retries


def with_first_pod(cluster: Cluster, at: Connect) -> KubernetesClient:
    client = at()
    client.submit(asked())
    cluster.add_pod("first", pod_labels("indexed_job"))
    return client


def test_logs_of_all_nodes_are_read_in_order(cluster: Cluster, at: Connect) -> None:
    client = at(nodes=2)
    client.submit(asked(nodes=2))
    for node in (1, 0):
        cluster.add_pod(f"pod-{node}", pod_labels("indexed_job", node))
        cluster.logs[f"pod-{node}"].write(f"hello from {node}", "mIoU 0.5 \u2713")
    cluster.add_pod("late", pod_labels("indexed_job", 1), phase="Pending")
    assert [*client.logs("tiny-1", follow=False)] == [
        "[node 0] hello from 0",
        "[node 0] mIoU 0.5 ✓",
        "[node 1] hello from 1",
        "[node 1] mIoU 0.5 ✓",
    ]


def test_logs_of_one_node_have_no_prefix(cluster: Cluster, at: Connect) -> None:
    client = at(kind="pytorchjob")
    client.submit(asked(kind="pytorchjob"))
    cluster.add_pod(
        "m", pod_labels("pytorchjob") | {"training.kubeflow.org/replica-type": "master"}
    )
    cluster.logs["m"].write("one")
    assert [*client.logs("tiny-1", follow=False)] == ["one"]
    worker = pod_labels("pytorchjob") | {"training.kubeflow.org/replica-type": "worker"}
    cluster.add_pod("w", worker)
    cluster.logs["w"].write("two")
    assert [*client.logs("tiny-1", follow=False)] == ["[node 0] one", "[node 1] two"]


def test_logs_are_followed_over_broken_connections_and_new_pods_until_the_end(
    cluster: Cluster, at: Connect
) -> None:
    client = at()
    client.submit(asked())
    pod = cluster.add_pod("first", pod_labels("indexed_job"), phase="Pending")
    cluster.logs["first"].breaks = [2, 3]

    def live() -> None:
        pod["status"]["phase"] = "Running"
        for number in range(5):
            cluster.logs["first"].write(f"step {number}")
            time.sleep(0.05)
        cluster.unready += [503]
        cluster.end_pod("first", 75)
        cluster.add_pod("second", pod_labels("indexed_job"))
        cluster.logs["second"].write("going on")
        time.sleep(0.2)
        cluster.logs["second"].write("done")
        cluster.end_pod("second", 0)
        complete(cluster)

    thread = threading.Thread(target=live)
    thread.start()
    lines = [*client.logs("tiny-1", follow=True)]
    thread.join()
    assert lines == [*(f"step {number}" for number in range(5)), "going on", "done"]
    assert cluster.logs["first"].breaks == []


def test_a_container_that_is_being_started_is_waited_for(cluster: Cluster, at: Connect) -> None:
    client = with_first_pod(cluster, at)
    cluster.logs["first"].write("one")
    cluster.end_pod("first", 0)
    complete(cluster)
    early = 'container "main" in pod "first" is waiting to start: ContainerCreating'
    cluster.refusals.append(("GET .*/log", ServerAnswer(400, "BadRequest", early)))
    timer = threading.Timer(0.3, cluster.refusals.clear)
    timer.start()
    assert [*client.logs("tiny-1", follow=True)] == ["one"]
    timer.join()


def test_a_log_that_breaks_off_while_it_is_read_is_no_whole_log(
    cluster: Cluster, at: Connect
) -> None:
    client = with_first_pod(cluster, at)
    cluster.logs["first"].write("one", "two")
    cluster.logs["first"].breaks = [1]
    with pytest.raises(StoreUnavailable, match="the log broke off"):
        [*client.logs("tiny-1", follow=False)]


@pytest.mark.parametrize("late_head", [False, True])
def test_a_pod_that_is_silent_for_long_is_followed_on(
    late_head: bool, cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nodes other than the first are between evaluations: no patience is used up."""
    client = at()
    client.submit(asked())
    cluster.add_pod("silent", pod_labels("indexed_job"))
    cluster.logs["silent"].late_head = late_head
    monkeypatch.setattr(api, "QUIET_S", 0.05)
    quick_retries(monkeypatch, deadline_s=0.0)

    def live() -> None:
        while sum("/log?" in path for _, path in cluster.asked) < 5:
            time.sleep(0.01)
        monkeypatch.setattr(api, "QUIET_S", 60.0)
        cluster.logs["silent"].write("at last")
        cluster.end_pod("silent", 0)
        complete(cluster)

    thread = threading.Thread(target=live)
    thread.start()
    lines = [*client.logs("tiny-1", follow=True)]
    thread.join()
    assert lines == ["at last"]


def test_a_silent_answer_is_no_whole_log(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = at()
    client.submit(asked())
    cluster.add_pod("silent", pod_labels("indexed_job"))
    cluster.logs["silent"].late_head = True
    monkeypatch.setattr(api, "QUIET_S", 0.05)
    with pytest.raises(StoreUnavailable, match=r"is unreachable: .*[Rr]ead timed out"):
        [*client.logs("tiny-1", follow=False)]
    cluster.logs["silent"].ended = True


def test_a_log_that_stays_away_ends_the_following(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = with_first_pod(cluster, at)
    complete(cluster)
    cluster.refusals.append(("GET .*/log", ServerAnswer(500, "InternalError", "no kubelet")))
    quick_retries(monkeypatch, deadline_s=0.2)
    with pytest.raises(StoreUnavailable, match="answers 500: no kubelet"):
        [*client.logs("tiny-1", follow=True)]


def test_a_pod_that_ended_without_a_log_does_not_keep_the_following_from_its_end(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was evicted before its container started."""
    client = with_first_pod(cluster, at)
    cluster.end_pod("first", 137)
    complete(cluster, "Failed")
    early = 'container "main" in pod "first" is waiting to start: PodInitializing'
    cluster.refusals.append(("GET .*/log", ServerAnswer(400, "BadRequest", early)))
    quick_retries(monkeypatch, deadline_s=0.1)
    assert [*client.logs("tiny-1", follow=True)] == []
    assert sum("/log?" in path for _, path in cluster.asked) > 1, "it may come a little later"
    assert [*client.logs("tiny-1", follow=False)] == []


@pytest.mark.parametrize("follow", [False, True])
def test_a_log_that_may_not_be_read_is_told(follow: bool, cluster: Cluster, at: Connect) -> None:
    client = with_first_pod(cluster, at)
    complete(cluster)
    cluster.denied.add(("get", "pods/log"))
    with pytest.raises(JobError, match=r"pods/log is forbidden: .*Fix: get a role"):
        [*client.logs("tiny-1", follow=follow)]


def test_what_ends_a_reader_ends_the_following(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a server whose certificate is another's now."""
    client = with_first_pod(cluster, at)
    complete(cluster)

    def renewed(self: api.ApiServer, *_: Any, **__: Any) -> Any:
        raise self._not_trusted(OSError("another certificate"))

    monkeypatch.setattr(api.ApiServer, "stream", renewed)
    with pytest.raises(JobError, match=r"no secure connection, .*another certificate"):
        [*client.logs("tiny-1", follow=True)]


def test_following_ends_with_a_job_that_is_deleted(cluster: Cluster, at: Connect) -> None:
    client = with_first_pod(cluster, at)
    cluster.logs["first"].write("one")
    lines = client.logs("tiny-1", follow=True)
    assert next(lines) == "one"
    cluster.logs["first"].ended = True
    del cluster.objects["v1", "lab", "pods"]["first"]
    del cluster.objects["batch/v1", "lab", "jobs"]["tiny-1"]
    assert [*lines] == []


def test_following_gives_up_on_a_server_that_stays_away(
    cluster: Cluster, at: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = at()
    client.submit(asked())
    quick_retries(monkeypatch, deadline_s=0.2)
    lines = client.logs("tiny-1", follow=True)
    cluster.refusals.append(("GET .*/pods", ServerAnswer(503, "ServiceUnavailable", "later")))
    with pytest.raises(StoreUnavailable, match=r"503: later, retried for \d+ s\. Fix: try again"):
        next(lines)
