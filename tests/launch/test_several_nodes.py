"""Several nodes, and the settings of the launcher of several ranks."""

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.launcher.api import LaunchConfig

from adapt.engine.train_config import TrainConfig
from adapt.errors import Interrupted, JobError
from adapt.launch import elastic
from adapt.launch.elastic import launch_config, run_elastic
from adapt.launch.first_node import wait_for_first_node
from adapt.launch.stop import Stop
from adapt.launch.supervisor import supervise
from adapt.launch.verdict import verdict_of
from adapt.places import Place, find_place
from tests.commands import finish
from tests.launch.rank_scripts import run_ranks


def test_two_nodes_find_one_another(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    body = """
assert place.num_ranks == 2 and rank == place.node and place.platform == "local"
assert not [name for name in os.environ if name.startswith("PET_")]
end(0)
"""
    first = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    processes = [
        run_ranks(body, tmp_path, 1, environment=first | {"PET_NODE_RANK": node})
        for node in ("1", "0")
    ]
    for process in processes:
        ended = finish(process)
        assert ended.code == 0, ended.err
    assert {path.name for path in tmp_path.glob("pid-*")} == {"pid-0-0", "pid-1-1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "given", "share"), [(1, {}, 1), (2, {}, 2), (1, {"THREADS": "3"}, None)]
)
def test_ranks_share_the_cores_unless_the_user_says_otherwise(
    processes: int, given: dict[str, str], share: int | None, tmp_path: Path
) -> None:
    threads = 3 if share is None else max(1, len(os.sched_getaffinity(0)) // share)
    body = f"end(0 if os.environ.get('OMP_NUM_THREADS') == '{threads}' else 4)"
    assert finish(run_ranks(body, tmp_path, processes, environment=given)).code == 0


@pytest.mark.parametrize(("grace_s", "shutdown_s"), [(120, 116), (6, 5)])
def test_ranks_get_nearly_all_of_the_platforms_grace(
    grace_s: float, shutdown_s: int, tmp_path: Path
) -> None:
    config = launch_config(Place("local", {}, tmp_path, grace_s=grace_s), 4)
    assert config.shutdown_timeout == shutdown_s
    assert (config.nproc_per_node, config.max_restarts, config.max_nodes) == (4, 0, 1)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "localhost:0")


def test_a_launcher_without_a_shutdown_timeout_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [field for field in elastic.fields(LaunchConfig) if field.name != "shutdown_timeout"]
    monkeypatch.setattr(elastic, "fields", lambda _: fields)
    config = launch_config(Place("local", {}, tmp_path, grace_s=120), 4)
    assert config.shutdown_timeout == 30


def test_nodes_meet_at_the_first_one(tmp_path: Path) -> None:
    place = replace(of_two_nodes(tmp_path), node=1, master_port=1234)
    config = launch_config(place, 1)
    assert (config.min_nodes, config.max_nodes, config.rdzv_backend) == (2, 2, "static")
    assert config.rdzv_endpoint == "leader:1234" and config.rdzv_configs["rank"] == 1


def of_two_nodes(tmp_path: Path, master_addr: str | None = "leader") -> Place:
    return Place("local", os.environ, tmp_path, num_nodes=2, master_addr=master_addr)


def test_the_first_nodes_name_may_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    asked: list[object] = []

    def getaddrinfo(*address: object) -> None:
        asked.append(address)
        if len(asked) < 3:
            raise socket.gaierror("not known yet")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    command = ["-c", ""]
    code = supervise(command, of_two_nodes(tmp_path), tmp_path, print).exit_code
    assert code == 0 and asked == [("leader", 29500)] * 3


def test_a_name_that_stays_unknown_is_an_interruption_after_the_wait_that_is_said(
    tmp_path: Path, signals_kept: None
) -> None:
    """The platform starts the job again, whose first pod may be there then."""
    unknown = of_two_nodes(tmp_path, "nobody.invalid")
    assert unknown.nodes_wait_s == 60 * TrainConfig().stall_minutes
    said = r"PET_MASTER_ADDR: .*'nobody.invalid', unknown for 0.1 s.*Fix: check that node 0 runs"
    with pytest.raises(Interrupted, match=said):
        wait_for_first_node(unknown, Stop(), timeout_s=0.1)
    verdict = supervise([], replace(unknown, nodes_wait_s=0.1), tmp_path, print)
    assert verdict.exit_code == 75 and "SEGADAPT_NODES_WAIT_S waits longer" in verdict.message
    given = {"SEGADAPT_NODES_WAIT_S": "7200"}
    assert find_place(given, tmp_path).nodes_wait_s == 7200


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_nodes_that_do_not_meet_are_an_interruption(
    node: int, tmp_path: Path, signals_kept: None
) -> None:
    """The name is known long before that node listens: its image is being pulled."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = replace(of_two_nodes(tmp_path, "127.0.0.1"), node=node, master_port=port)
    with pytest.raises(Interrupted, match=r"nodes: expected all 2 within 1 s, got fewer .*Fix: ch"):
        run_elastic(replace(place, nodes_wait_s=1.0), 1, ["-c", "pass"], tmp_path)
    verdict = verdict_of(75, [], None, asked=False)
    assert (verdict.exit_code, verdict.shown) == (75, True), "the launcher's process has said it"


def test_a_name_that_is_not_given_is_a_mistake(tmp_path: Path, signals_kept: None) -> None:
    with pytest.raises(JobError, match=r"PET_MASTER_ADDR: .*got nothing\. Fix: set PET_MASTER_"):
        supervise([], of_two_nodes(tmp_path, None), tmp_path, print)


def test_a_stop_while_waiting_for_the_name_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals_kept: None
) -> None:
    def getaddrinfo(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise socket.gaierror("not known yet")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert supervise([], of_two_nodes(tmp_path), tmp_path, print).exit_code == 75
