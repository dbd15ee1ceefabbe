"""MLflow: whether its server lets the job in."""

from adapt.check.subject import Findings, Subject
from adapt.platforms.platform import Finding
from adapt.tracking.mlflow_errors import be_brief, failures, first_line, fix_of
from adapt.trainer.tracked_run import tracking_uri
from storage.errors import StoreError
from storage.uris import without_password

WHAT = "MLflow"


def tracking_findings(subject: Subject) -> Findings:
    """Ask the server for the job's experiment; a database file needs none."""
    uri = tracking_uri(subject.job, subject.place_there)
    if uri.startswith("sqlite:"):
        found = f"metrics go to a database file, {uri}"
        loss = ", lost with the machine unless tracking.uri names a server"
        yield Finding(WHAT, True, found if subject.profile is None else found + loss)
        return
    only_there = subject.inside(uri)
    yield Finding(WHAT, True, only_there) if only_there else _asked(uri, subject)


def _asked(uri: str, subject: Subject) -> Finding:
    name, server = subject.job.tracking.experiment, without_password(uri)
    be_brief()
    from mlflow import MlflowClient

    try:
        experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    except failures() as error:
        found = f"{server}: {first_line(error)}"
        return Finding(WHAT, False, found, fix_of(error), StoreError.exit_code)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        found = f"{server}: the experiment {name!r} was deleted"
        fix = "`mlflow experiments restore` it, or choose another tracking.experiment"
        return Finding(WHAT, False, found, fix)
    new = "is new" if experiment is None else "is there"
    return Finding(WHAT, True, f"{server} answers; the experiment {name!r} {new}")
