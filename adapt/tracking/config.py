"""The job spec's `tracking`: the MLflow server and the experiment of a job's metrics."""

import re
from pathlib import Path

from pydantic import Field, field_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from storage.uris import without_password

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks", "arn")


class TrackingConfig(Section):
    """MLflow: the server and the experiment of the job's metrics."""

    experiment: str = Field(
        "segadapt", min_length=1, max_length=250, description="MLflow experiment of the run."
    )
    uri: str | None = Field(
        None,
        description="MLflow tracking URI; null: MLFLOW_TRACKING_URI, else an embedded sqlite file. "
        "Passwords belong in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
        "MLFLOW_TRACKING_TOKEN).",
    )
    register_as: str | None = Field(
        None,
        min_length=1,
        description="Registered model that gets a version for the best checkpoint, and the alias "
        "`best` for the best version; null: none.",
    )
    parent_run: str | None = Field(
        None,
        pattern="^[0-9A-Za-z_-]+$",
        max_length=64,
        description="Id of the MLflow run below which this one is listed, as a sweep's; null: "
        "none.",
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder that buffers entries for MLflow; null: the job's scratch folder.",
    )

    @field_validator("uri")
    @classmethod
    def _is_known_and_without_password(cls, uri: str | None) -> str | None:
        if uri is None:
            return uri
        if without_password(uri) != uri:
            raise Mistake(
                "expected a URI without user and password, got one with them",
                fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the job's "
                "environment instead",
            )
        if re.split(r"[:+]", uri)[0] not in SCHEMES:
            raise ValueError(f"expected a URI of {', '.join(SCHEMES)}, got {uri!r}")
        return uri

    @field_validator("register_as")
    @classmethod
    def _is_a_model_name(cls, name: str | None) -> str | None:
        if name is not None and (set("/:") & set(name) or not name.strip(" .")):
            raise ValueError(f"expected a name without '/' and ':', got {name!r}")
        return name
