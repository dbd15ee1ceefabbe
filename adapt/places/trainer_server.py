"""Kubeflow Trainer's server for the progress of a TrainJob (KEP-2779).

Where the cluster has its feature gate `TrainJobStatus` on, the controller gives all containers of a
TrainJob three variables: an address, and the paths of two files, which it replaces while the job
runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

URL = "KUBEFLOW_TRAINER_SERVER_URL"
TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"
CA_CERT = "KUBEFLOW_TRAINER_SERVER_CA_CERT"


class TrainerServer(NamedTuple):
    """Where a TrainJob's progress goes: the URL, the file of the bearer token, and the file of the
    certificates that the server's is signed by; None for the system's."""

    url: str
    token_file: Path
    ca_file: Path | None


def trainer_server(environment: Mapping[str, str]) -> TrainerServer | None:
    """The server that the environment names; None without a URL or a token."""
    url, token, ca_cert = (environment.get(name, "").strip() for name in (URL, TOKEN, CA_CERT))
    if not url or not token:
        return None
    return TrainerServer(url, Path(token), Path(ca_cert) if ca_cert else None)
