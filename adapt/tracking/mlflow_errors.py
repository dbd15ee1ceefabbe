"""Failures of MLflow's client: which exceptions they are, their codes, and how each is fixed."""

import logging
import os
import re
from json import JSONDecodeError

from storage.uris import without_password

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
MALFORMED: tuple[type[Exception], ...] = (KeyError, TypeError, UnicodeError)
"""Exceptions of an entry that MLflow's client cannot even send."""
_STATUS = re.compile(r"failed with error code (\d{3}) != ")
REFUSALS = {
    "NOT_IMPLEMENTED",
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "INVALID_STATE",
}
"""MLflow's codes of requests that are refused for good."""

_FIXES = (
    (
        "Invalid Host header",
        "start the server with `mlflow server --allowed-hosts HOST:PORT` (or "
        "MLFLOW_SERVER_ALLOWED_HOSTS), written exactly as in the tracking URI",
    ),
    (
        "UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in "
        "the job's environment",
    ),
    ("PERMISSION_DENIED", "give the job's MLflow user the right to edit the experiment"),
    (
        "ENDPOINT_NOT_FOUND|JSONDecodeError|valid JSON",
        "correct the path of the URI, at which there is no MLflow server",
    ),
    (
        "must be in (the )?'?active'?",
        "restore the experiment, which was deleted, with `mlflow experiments restore`, or choose "
        "another tracking.experiment",
    ),
    (r"^INTERNAL_ERROR \w+ \[Errno (?!28)", "make the database's folder writable"),
    (r"\[Errno 28\]|disk is full", "free space on that disk"),
    ("", "start the server, or make it reachable from the job"),
)
"""Fix of a failure by code and message; the first match counts."""


def be_brief() -> None:
    """Have MLflow give up within seconds and log nothing itself; variables that are set stay.

    To be called before MLflow is imported.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # raises what it logs


def failures() -> tuple[type[Exception], ...]:
    """The exceptions of MLflow's client where a server, a database or an artifact store fails."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    s3 = (Boto3Error, BotoCoreError, ClientError)
    return (MlflowException, RequestException, SQLAlchemyError, OSError, JSONDecodeError, *s3)


def code_of(error: Exception) -> str:
    """MLflow's code of a failure, also for an artifact upload that HTTP refused, and for an HTTP
    method that a proxy does not know."""
    by_status = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 405: "NOT_IMPLEMENTED"}
    return by_status.get(_status_of(error)) or str(getattr(error, "error_code", "INTERNAL_ERROR"))


def is_of_a_proxy(error: Exception) -> bool:
    """Return whether something before the MLflow server refused a request that it does not pass."""
    from mlflow.exceptions import MlflowException

    return type(error) is MlflowException and _status_of(error) in (403, 405, 501)


def _status_of(error: Exception) -> int:
    """The HTTP status of a failure; 0 where there is none, or MLflow's own code says more."""
    found = _STATUS.search(str(error))
    if found is not None:
        return int(found[1])
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def first_line(error: Exception) -> str:
    """The first line of an error message, without passwords."""
    lines = without_password(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def fix_of(error: Exception) -> str:
    """How a user can fix one of `failures()`, as an imperative."""
    text = f"{code_of(error)} {type(error).__name__} {error}"
    return next(fix for sign, fix in _FIXES if re.search(sign, text))
