"""A job over the real S3 server and the real MLflow server, and the commands that belong to it."""

from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from adapt.platforms.local_stack import S3Server
from tests.commands import Ended, call
from tests.conftest import tiny_values
from tests.servers import BUCKET

KEYS = {"access_key_env": "STREETS_ACCESS_KEY", "secret_key_env": "STREETS_SECRET_KEY"}


class Platform:
    """A folder, a bucket and an MLflow server, and commands that use them."""

    def __init__(self, folder: Path, s3_uri: str, server: S3Server, mlflow_uri: str) -> None:
        self.folder, self.s3_uri, self.server = folder, s3_uri, server
        self.mlflow = MlflowClient(mlflow_uri)
        self.experiment = s3_uri.rpartition("/")[2]
        self.environment = {
            "MLFLOW_TRACKING_URI": mlflow_uri,
            "STREETS_ACCESS_KEY": server.access_key,
            "STREETS_SECRET_KEY": server.secret_key,
        }
        values: dict[str, Any] = tiny_values(f"{s3_uri}/packed", f"{s3_uri}/runs")
        store = {"endpoint_url": server.endpoint_url, "region": "us-east-1", **KEYS}
        self.values = values | {
            "tracking": {"experiment": self.experiment},
            "stores": {"s3": store},
        }
        self.write()

    def write(self, **sections: Any) -> None:
        """Write tiny.yaml, with these sections in place of its own."""
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(self.values | sections))

    def aws_variables(self) -> dict[str, str]:
        """The variables by which programs without the job spec reach the bucket."""
        return {
            "AWS_ENDPOINT_URL_S3": self.server.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def __call__(self, *argv: object) -> Ended:
        ended = call(*argv, folder=self.folder, environment=self.environment)
        assert ended.code == 0, ended.err
        return ended

    def stored(self) -> set[str]:
        """The bucket's keys under this platform's prefix, relative to it."""
        prefix = f"{self.experiment}/"
        pages = self.server.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return {o["Key"].removeprefix(prefix) for page in found for o in page.get("Contents", ())}

    def only_run(self) -> Run:
        experiment = self.mlflow.get_experiment_by_name(self.experiment)
        assert experiment is not None
        (run,) = self.mlflow.search_runs([experiment.experiment_id])
        return run

    def artifacts(self, run: Run) -> set[str]:
        folders = ("", "pictures", "evaluations")
        return {a.path for f in folders for a in self.mlflow.list_artifacts(run.info.run_id, f)}
