"""The world of `tests/chaos.py`: servers behind proxies, and jobs as users start them."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from adapt.platforms.local_stack import S3Server
from storage.config import StoreConfig
from storage.store import Store
from storage.stores import Stores
from tests.commands import ROOT
from tests.conftest import tiny_values
from tests.processes import Process
from tests.storage.faults import FaultProxy

BUCKET = "chaos"
STEPS_A_ROUND = 30
GRACE_S = 40.0


class World:
    """The servers, proxies before them, and a folder for one job at a time."""

    def __init__(self, folder: Path, server: S3Server, mlflow_uri: str, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.store_proxy = FaultProxy(server.endpoint_url)
        self.mlflow_proxy = FaultProxy(mlflow_uri)
        self.mlflow_uri = mlflow_uri
        names = {"access_key_env": "CHAOS_KEY", "secret_key_env": "CHAOS_SECRET"}
        config = {"region": "us-east-1", **names}
        self.keys = {"CHAOS_KEY": server.access_key, "CHAOS_SECRET": server.secret_key}
        direct = StoreConfig.model_validate(config | {"endpoint_url": server.endpoint_url})
        self.stores = Stores({"s3": direct}, self.keys)
        self.store_config = config | {"endpoint_url": self.store_proxy.endpoint_url}
        self.scratch = folder / "scratch"

    def write_spec(self, name: str) -> None:
        values = tiny_values(f"s3://{BUCKET}/packed", f"s3://{BUCKET}/runs") | {"name": name}
        values["model"]["encoder"] = "test_resnet"
        values["model"] |= {"norm": "frozen_affine", "output_stride": 16}
        values["method"] |= {"discriminator_width": 4}
        values["train"] |= {"steps": self.steps, "ema": {"alpha": 0.9}}
        values["evaluate"] |= {"every_steps": STEPS_A_ROUND, "pictures": 1, "weights": "ema"}
        values["checkpoint"] |= {"every_steps": 5}
        values["tracking"] = {"experiment": name}
        values["stores"] = {"s3": self.store_config}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(values))

    def start(
        self, name: str, log_name: str | None = None, scratch: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """The job as users start it; its log grows in the folder."""
        environment = {**os.environ, **self.keys, "OMP_NUM_THREADS": "1"}
        environment["SEGADAPT_SCRATCH_DIR"] = str(scratch or self.scratch)
        environment["SEGADAPT_GRACE_S"] = f"{0.75 * GRACE_S:.0f}"
        environment["MLFLOW_TRACKING_URI"] = self.mlflow_proxy.endpoint_url
        with self.log(log_name or name).open("ab") as log:
            return Process(
                [sys.executable, ROOT / "entrypoint.py", "run", f"{name}.yaml"],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self, name: str) -> Path:
        """Where a job's lines go, those of all its rounds."""
        return self.folder / f"{name}.log"

    def run_store(self, name: str) -> Store:
        return self.stores.open(f"s3://{BUCKET}/runs/{name}")
