"""`adapt.load`: from a file of weights, a checkpoint, a run or a registered model to a network that
predicts images.

The header of `weights.safetensors` is enough. Files without it (of older versions, of other
programs) need their job spec: the one beside them, or the one that is given.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.checkpoint.files import sha256_of
from adapt.config.strict_yaml import parse_yaml
from adapt.data.label_maps import LabelSpace
from adapt.errors import DataError, JobError
from adapt.models.file_header import FileHeader, read_file_header
from adapt.models.segmenter import Segmenter
from adapt.places import find_place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec, parse_spec
from adapt.tracking.mlflow_database import embedded_tracking_uri
from adapt.trainer.fetched import fetched
from adapt.trainer.lineage import header_of
from adapt.trainer.networks import network_of_file
from adapt.trainer.score import spec_beside
from adapt.use.locate import Located, model_at
from adapt.use.model import LoadedModel
from storage.stores import Stores
from storage.uris import without_password

if TYPE_CHECKING:
    import torch

GIVE_SPEC = (
    "make a file that states itself: segadapt import-model WHERE --spec SPEC --out OURS.safetensors"
    "; Python also takes adapt.load(WHERE, spec=SPEC)"
)


def load(
    where: str | os.PathLike[str],
    *,
    spec: str | os.PathLike[str] | JobSpec | None = None,
    device: "torch.device | str | None" = None,
    precision: str = "fp32",
    stores: Stores | None = None,
    tracking_uri: str | None = None,
    sha256: str | None = None,
    base: str | None = None,
    merge: bool = True,
) -> LoadedModel:
    """A trained network, ready to predict images.

    `where`: a file of weights, the folder of a checkpoint or of a run (its best checkpoint, else
    its last), as a path or a URI; or a registered model's version, `models:/NAME@best`. `spec`: its
    job spec, for a file whose header does not state the network and its classes; it goes before
    header and spec.yaml. `device`: by default the GPU where there is one. `precision`: fp32, as
    scores are measured, or bf16. `stores`: settings of object stores; by default the spec's, else
    those of the environment. `tracking_uri`: MLflow of `models:/`; by default MLFLOW_TRACKING_URI,
    else ./runs/mlflow.db. `sha256`: that of the file; by default the one that its checkpoint or its
    version states. `base`: for a file that leaves out its base, the file of the encoder's weights
    that it was trained on; by default where its header says. `merge`: adapters become one with
    their layers, which computes the same, to rounding; False keeps them.

    Raises `JobError` for what is no such network, `DataError` where the sha256 differs from the
    checkpoint's, `StoreError`.
    """
    place = find_place(os.environ)
    job = spec if spec is None or isinstance(spec, JobSpec) else load_spec(os.fspath(spec))
    if stores is None:
        stores = Stores({} if job is None else job.stores, place.environment)
    server = tracking_uri or place.tracking_uri or embedded_tracking_uri(Path("runs"))
    found = model_at(os.fspath(where), stores, server)
    found = found if sha256 is None else found._replace(sha256=sha256)
    with fetched(stores, found.uri) as path:
        check_digest(path, found)
        segmenter, header = network_of(path, found.uri, job, stores, base=base)
    if merge:
        segmenter.merge_adapters()
    return LoadedModel(segmenter, header, stores, device, precision)


def network_of(
    path: Path,
    uri: str,
    job: JobSpec | None,
    stores: Stores,
    classes: LabelSpace | None = None,
    give_spec: str = GIVE_SPEC,
    base: str | None = None,
) -> tuple[Segmenter, FileHeader]:
    """The network of a file from `uri` and its header, or the one that its job spec gives.

    `classes` go before the header's. Raises `JobError`, by tensors' names where they do not fit;
    `give_spec` is the fix where nothing states the network; `base` is as of `load`.
    """
    key = without_password(uri)
    header = None if job is not None else read_file_header(path, key)
    if header is not None:
        header = header.with_classes(classes)
    if header is not None and header.classes is not None:
        segmenter = network_of_file(header.config, header.num_classes, path, key, stores, base)
        _check_pixels(segmenter, header, key)
        return segmenter, header
    job = job or _job_beside(uri, stores)
    if job is None:
        missing = "network" if header is None else "classes"
        raise JobError(
            f"{key}: expected a header that states the {missing}, got none, as in files of older "
            "versions and of other programs",
            give_spec,
        )
    segmenter = network_of_file(job.model, job.classes.num_classes, path, key, stores, base)
    lineage = {} if header is None else dict(header.lineage)
    return segmenter, header_of(job, segmenter.pixels, lineage).with_classes(classes)


def _job_beside(uri: str, stores: Stores) -> JobSpec | None:
    """The job spec beside a file of weights; None where there is none."""
    found = None if "?" in uri else spec_beside(stores, uri)
    if found is None:
        return None
    where, text = found
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        raise JobError(f"{where}: expected the job spec of the weights beside it, got another file")
    return parse_spec(values, "unnamed")


def _check_pixels(segmenter: Segmenter, header: FileHeader, key: str) -> None:
    """Raise `JobError` where another version builds a network of another input."""
    if segmenter.pixels != header.pixels:
        raise JobError(
            f"{key}: expected a network that reads {tuple(header.pixels)}, got one that reads "
            f"{tuple(segmenter.pixels)}",
            "use the version of segadapt that wrote the file",
        )


def check_digest(path: Path, file: Located) -> None:
    """Raise `DataError` for a file of another sha256 than its checkpoint or version states."""
    found = None if file.sha256 is None else sha256_of(path)
    if found != file.sha256:
        raise DataError(
            f"{without_password(file.uri)}: expected sha256 {file.sha256}, got {found}",
            "load another checkpoint: this one was changed where it is stored",
        )
