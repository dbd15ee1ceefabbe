"""Networks of others as one file that states itself: from a file of weights in any form, a
checkpoint, a run of MLflow or a registered model, to `weights.safetensors` with its whole header.

The header says where the weights come from, and the sha256 of the file that was read.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

import adapt
from adapt.checkpoint.files import sha256_of
from adapt.config.secrets import refuse_secrets
from adapt.config.section import Section
from adapt.config.strict_yaml import read_yaml, with_overrides
from adapt.config.validation import validate
from adapt.data.label_maps import LabelSpace
from adapt.errors import JobError
from adapt.evaluation.inference import InferenceConfig
from adapt.models.config import SegmenterConfig
from adapt.models.file_header import VIEWS, FileHeader, read_file_header, write_weights
from adapt.models.segmenter import Segmenter
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec, with_classes
from adapt.spec.shipped import find_file
from adapt.tracking.mlflow_database import require_database
from adapt.tracking.mlflow_errors import be_brief
from adapt.tracking.mlflow_run import BEST_SHA256_TAG, BEST_URI_TAG
from adapt.trainer.fetched import fetched
from adapt.trainer.found_run import asked
from adapt.trainer.networks import network_of_file
from adapt.use.load import check_digest, network_of
from adapt.use.locate import REGISTERED, Located, located, model_at
from storage.config import StoreConfig
from storage.stores import Stores
from storage.uris import split_uri, without_password

if TYPE_CHECKING:
    ModelSection = SegmenterConfig
else:
    from adapt.models import ModelSection

RUN = "runs:/"
ENDING = ".safetensors"
GIVE_SPEC = "add --spec FILE: a job spec, or a YAML file with its model and classes alone"


class NetworkSpec(Section):
    """The part of a job spec that describes a network: for weights that have no job."""

    model: ModelSection
    classes: LabelSpace
    size_hw: tuple[int, int] | None = Field(
        None, description="Height and width of the images that it reads; null: their own."
    )
    stores: dict[str, StoreConfig] = Field(default_factory=dict)


class Imported(NamedTuple):
    """The written file: URI, sha256, header, architecture and classes, and number of tensors."""

    uri: str
    sha256: str
    header: Mapping[str, str]
    network: str
    tensors: int


class Source(NamedTuple):
    """A file of weights on the local disk. `uri` is where it was read, `origin` how the header
    names that."""

    path: Path
    uri: str
    origin: str


def read_network_spec(
    where: str,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> JobSpec | NetworkSpec:
    """A job spec, or the part of one that describes a network. Raises `JobError` by key."""
    values = with_overrides(with_classes(read_yaml(find_file(where), environment)), overrides)
    if "source" in values:
        return parse_spec(values, "imported")
    refuse_secrets(values)
    if isinstance(values.get("classes"), str):
        LabelSpace.named(values["classes"])
    return validate(NetworkSpec, with_classes(values))


def import_model(
    where: str | os.PathLike[str] | Source,
    out: str | os.PathLike[str],
    *,
    spec: JobSpec | NetworkSpec | None = None,
    classes: LabelSpace | None = None,
    size_hw: tuple[int, int] | None = None,
    stores: Stores | None = None,
    tracking_uri: str | None = None,
    base: str | None = None,
    merge: bool = True,
) -> Imported:
    """Write the network at `where` to `out`, a path or URI that ends with .safetensors.

    `where`: what `adapt.load` takes, `runs:/ID`, the best checkpoint of a run, or `runs:/ID/PATH`,
    an artifact of one. `spec` describes a network whose file does not, and goes before its header;
    `classes` and `size_hw` go before both; the lineage is the header's. `base` and
    `merge` are as of `adapt.load`: the file has its base. Raises `JobError`, by
    tensors' names where the weights do not fit the network, `DataError` where the sha256 differs
    from the stated one, `StoreError`.
    """
    root, name = _target(os.fspath(out))
    stores = stores or Stores({} if spec is None else spec.stores, os.environ)
    with _opened(where, stores, tracking_uri) as source:
        segmenter, header = _network(source, spec, classes, stores, base)
        validate(InferenceConfig, dict(header.views), VIEWS)
        before = header.lineage if spec is None else _stated_lineage(source)
        origin = {"imported_from": source.origin, "imported_sha256": sha256_of(source.path)}
    lineage = {"version": adapt.__version__, **before, **origin}
    if merge:
        segmenter.merge_adapters()
    size_hw = size_hw or header.size_hw
    header = replace(header, config=segmenter.config, lineage=lineage, size_hw=size_hw)
    entries, tensors = header.entries(), segmenter.state_dict()
    with tempfile.TemporaryDirectory(prefix="segadapt-import-") as folder:
        path = Path(folder) / name
        write_weights(tensors, entries, path)
        digest = sha256_of(path)
        stores.open(root).put_file(name, path)
    config = segmenter.config
    network = f"{config.architecture} on {config.encoder}, {header.num_classes} classes"
    return Imported(os.fspath(out), digest, entries, network, len(tensors))


def _target(out: str) -> tuple[str, str]:
    """The root and the name of the file to write."""
    root, _, name = out.rpartition("/")
    if not name.endswith(ENDING) or name == ENDING:
        raise JobError(
            f"--out: expected a path or URI that ends with {ENDING}, got {out!r}",
            f"name it as town{ENDING}",
        )
    return root or ("/" if out.startswith("/") else "."), name


def _network(
    source: Source,
    spec: JobSpec | NetworkSpec | None,
    classes: LabelSpace | None,
    stores: Stores,
    base: str | None,
) -> tuple[Segmenter, FileHeader]:
    if not isinstance(spec, NetworkSpec):
        return network_of(source.path, source.uri, spec, stores, classes, GIVE_SPEC, base)
    key, num_classes = without_password(source.uri), spec.classes.num_classes
    segmenter = network_of_file(spec.model, num_classes, source.path, key, stores, base)
    header = FileHeader(spec.model, num_classes, segmenter.pixels, spec.classes, spec.size_hw)
    return segmenter, header.with_classes(classes)


def _stated_lineage(source: Source) -> Mapping[str, Any]:
    """The lineage of a file beside whose header a spec stands, which goes before the rest of it."""
    header = read_file_header(source.path, without_password(source.uri))
    return {} if header is None else header.lineage


@contextmanager
def _opened(
    where: str | os.PathLike[str] | Source, stores: Stores, tracking_uri: str | None
) -> Iterator[Source]:
    if isinstance(where, Source):
        yield where
        return
    text = os.fspath(where)
    run_id, _, artifact = text.removeprefix(RUN).partition("/")
    if text.startswith(RUN) and artifact:
        with _artifact(run_id, artifact, tracking_uri) as path:
            yield Source(path, text, text)
        return
    found = _located(text, run_id, stores, tracking_uri)
    local = split_uri(text)[0] == "file" and not text.startswith((REGISTERED, RUN))
    with fetched(stores, found.uri) as path:
        check_digest(path, found)
        yield Source(path, found.uri, path.name if local else without_password(text))


def _located(text: str, run_id: str, stores: Stores, tracking_uri: str | None) -> Located:
    if text.startswith(RUN):
        return _best_of(run_id, _server(tracking_uri, text))
    if text.startswith(REGISTERED):
        return model_at(text, stores, _server(tracking_uri, text))
    return located(text, stores)


def _best_of(run_id: str, server: str) -> Located:
    """The best checkpoint of a run of ours."""

    def tags() -> Mapping[str, str]:
        from mlflow import MlflowClient

        return dict(MlflowClient(server).get_run(run_id).data.tags)

    found = asked(tags, server)
    if BEST_URI_TAG not in found:
        raise JobError(
            f"{RUN}{run_id}: expected a run with a best checkpoint, got none",
            f"name the file among its artifacts: {RUN}{run_id}/PATH",
        )
    return Located(found[BEST_URI_TAG], found.get(BEST_SHA256_TAG))


def _server(tracking_uri: str | None, where: str) -> str:
    """The MLflow server to ask. Raises `JobError`."""
    if tracking_uri is None:
        raise JobError(
            f"{where}: expected the MLflow server that knows it, got none",
            "set MLFLOW_TRACKING_URI, or name it with --tracking-uri",
        )
    require_database(tracking_uri)
    be_brief()
    return tracking_uri


@contextmanager
def _artifact(run_id: str, artifact: str, tracking_uri: str | None) -> Iterator[Path]:
    """A file among the artifacts of a run, on the local disk within the context."""
    server = _server(tracking_uri, f"{RUN}{run_id}/{artifact}")

    def download(folder: str) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(server).download_artifacts(run_id, artifact, folder)

    with tempfile.TemporaryDirectory(prefix="segadapt-artifact-") as folder:
        path = Path(asked(lambda: download(folder), server))
        if not path.is_file():
            raise JobError(
                f"{RUN}{run_id}/{artifact}: expected a file of weights, got a folder of artifacts",
                "name the file in it",
            )
        yield path
