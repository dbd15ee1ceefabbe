"""MLflow's LoggedModels of a run: one for each checkpoint that is kept, with its scores.

The weights stay where the checkpoints are: a LoggedModel has their URI and sha256, and the few
kilobytes by which `mlflow.pyfunc` fetches them (adapt/tracking/pyfunc_model.py). That of a
checkpoint which is removed from the store is removed too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from adapt.tracking.mlflow_errors import code_of, is_of_a_proxy
from adapt.tracking.mlflow_run import MlflowRun
from adapt.tracking.pyfunc_model import facts_of, write_pyfunc_model
from adapt.tracking.spool import Entry

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric

VALIDATION, CLASS_IOU = "validation/", "iou/"
EXTERNAL_TAG = "mlflow.model.isExternal"
MODEL_TYPE = "semantic-segmentation"
_OLD_SERVER = (
    "this MLflow server has no LoggedModels, which came with MLflow 3",
    "update the server to list all that are kept",
)
_PROXY = (
    "a proxy before this MLflow server does not pass what makes LoggedModels",
    "let it pass GET, POST, PATCH and DELETE to list all that are kept",
)


class TrackedModel(NamedTuple):
    """A stored checkpoint: its folder's name, the URI and sha256 of its weights, and their header.

    `stores`: settings of object stores, without secrets. `dataset`: name and digest of the one that
    its scores are of, None where it was not scored.
    """

    name: str
    uri: str
    sha256: str
    step: int
    header: Mapping[str, str] = {}
    stores: Mapping[str, Any] = {}
    dataset: tuple[str, str] | None = None


def send_models(run: MlflowRun, entries: list[Entry]) -> None:
    """Make the run's LoggedModels those of the checkpoints that are kept by the newest entry. One
    that a checkpoint restored is older than what was sent: it says nothing of later models."""
    if not run.is_past(entries[-1]):
        _send(run, lambda: _make_equal(run, entries))


def add_model(run: MlflowRun, model: TrackedModel) -> None:
    """Make one more LoggedModel of the run; others stay, since versions may be of them."""
    _send(run, lambda: _make_ready(run, model, _models(run).get(model.name)))


def _send(run: MlflowRun, send: Callable[[], None]) -> None:
    """Call `send` where the server has LoggedModels; the first time that it lacks them, say so."""
    from mlflow.exceptions import MlflowException

    if run.lacks_models:
        return
    try:
        send()
    except MlflowException as error:
        if not _is_lack(error):
            raise
        run.lacks_models = True
        reason, fix = _PROXY if is_of_a_proxy(error) else _OLD_SERVER
        run.warn(f"{reason}: the run names its best checkpoint in tags alone. Fix: {fix}")


def _is_lack(error: Exception) -> bool:
    return code_of(error) == "ENDPOINT_NOT_FOUND" or is_of_a_proxy(error)


def model_of(run: MlflowRun, uri: str) -> "LoggedModel | None":
    """The run's LoggedModel of the weights at a URI; None where the server has none."""
    from mlflow.exceptions import MlflowException

    try:
        found = _models(run).values()
    except MlflowException as error:
        if not _is_lack(error):
            raise
        return None
    return next((one for one in found if one.params.get("uri") == uri and _is_ready(one)), None)


def _make_equal(run: MlflowRun, entries: list[Entry]) -> None:
    newest = max(entries, key=lambda entry: str(entry["model"]["name"]))
    kept, models = set(newest["kept"]), _models(run)
    for entry in entries:
        model = TrackedModel(**entry["model"])
        if model.name in kept:
            _make_ready(run, model, models.get(model.name))
    for name, known in models.items():
        if name not in kept and name <= newest["model"]["name"]:
            run.client.delete_logged_model(known.model_id)


def _make_ready(run: MlflowRun, model: TrackedModel, begun: "LoggedModel | None") -> None:
    """Make a LoggedModel, or complete one that a kill left: it is ready when all of it is there."""
    if begun is not None and _is_ready(begun):
        return
    logged = begun or run.client.create_logged_model(
        run.experiment_id,
        model.name,
        run.id,
        {EXTERNAL_TAG: "true", **facts_of(model.header)},
        {"uri": model.uri, "sha256": model.sha256, "step": str(model.step)},
        MODEL_TYPE,
    )
    with TemporaryDirectory(prefix="segadapt-model-") as folder:
        write_pyfunc_model(Path(folder), model.uri, model.sha256, model.header, model.stores)
        run.client.log_model_artifacts(logged.model_id, folder)
    scores = _scores(run, model, logged)
    if scores:
        run.client.log_batch(run.id, metrics=scores)
    run.client.finalize_logged_model(logged.model_id, "READY")


def _scores(run: MlflowRun, model: TrackedModel, logged: "LoggedModel") -> "list[Metric]":
    """The run's scores of the step, as they were logged, for the model too; not those by class."""
    from mlflow.entities import Metric

    if model.dataset is None:
        return []
    has = {point.key for point in logged.metrics or ()}
    keys = [
        key
        for key in run.client.get_run(run.id).data.metrics
        if key.startswith(VALIDATION) and CLASS_IOU not in key and key not in has
    ]
    points = [point for key in keys for point in run.client.get_metric_history(run.id, key)]
    named = (logged.model_id, *model.dataset)
    return [
        Metric(point.key, point.value, point.timestamp, point.step, *named)
        for point in points
        if point.step == model.step
    ]


def _models(run: MlflowRun) -> "dict[str, LoggedModel]":
    """The run's LoggedModels by name."""
    found: dict[str, LoggedModel] = {}
    token = None
    while True:
        page = run.client.search_logged_models(
            [run.experiment_id], f"source_run_id = '{run.id}'", page_token=token
        )
        found |= {one.name: one for one in page if one.model_type == MODEL_TYPE}
        token = page.token
        if not token:
            return found


def _is_ready(model: "LoggedModel") -> bool:
    return str(model.status).upper().endswith("READY")
