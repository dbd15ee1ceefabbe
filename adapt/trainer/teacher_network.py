"""The network that teaches another: with the weights that its section names, from a run, a file or
MLflow, or with those that its training in the job starts from."""

from adapt.errors import JobError, keys_renamed
from adapt.methods.teacher_network import teacher_of
from adapt.models.segmenter import Segmenter
from adapt.places import Place
from adapt.spec.job_spec import TEACHER_URI, JobSpec
from adapt.tracking.mlflow_run import BEST_URI_TAG
from adapt.trainer.found_run import find_run
from adapt.trainer.labelling_run import weights_at
from adapt.trainer.networks import load_network, started_network
from adapt.trainer.tracked_run import tracking_uri
from storage.stores import Stores


def build_teacher(
    job: JobSpec, stores: Stores, place: Place, resumed: bool = False
) -> Segmenter | None:
    """The teacher of the job's method; None where it has none. The adapters of one that learns are
    started, but in `resumed` jobs, whose checkpoint has them.

    Raises `JobError` where there are no weights, or others than of this network and these classes.
    """
    section, num_classes = teacher_of(job.method), job.classes.num_classes
    if section is None:
        return None
    with keys_renamed("model.", "method.teacher.model."):
        if section.uri is None:
            teacher = started_network(section.model, num_classes, stores)
            if not resumed:
                teacher.start_adapters()
            return teacher
        uri = _weights_uri(job, section.uri, stores, place)
        return load_network(section.model, num_classes, stores, uri, TEACHER_URI)


def _weights_uri(job: JobSpec, wanted: str, stores: Stores, place: Place) -> str:
    known = job.teacher_uri()
    if known is not None:
        return weights_at(known, stores, TEACHER_URI)
    tags = find_run(wanted, tracking_uri(job, place)).tags
    if BEST_URI_TAG not in tags:
        raise JobError(
            f"{TEACHER_URI}: expected a model with a checkpoint, got {wanted}, whose run has none",
            fix="name another version, or the URI of its file of weights",
        )
    return tags[BEST_URI_TAG]
