"""The checkpoint of another run by which a two-stage job labels the target."""

from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import JobError
from adapt.methods import labelling_of
from adapt.models.weight_files import ENDINGS
from adapt.models.weights import WEIGHTS
from adapt.spec.consistency import LABELLING_RUN
from adapt.spec.job_spec import JobSpec
from storage.stores import Stores
from storage.uris import join


def checkpoint_uri(job: JobSpec, stores: Stores) -> str:
    """The file of weights that `method.pseudo_labels` names.

    Raises `JobError` where there is none.
    """
    section, uri = labelling_of(job.method), job.labelling_uri()
    assert section is not None and uri is not None, "asked of methods with a stage"
    return weights_at(uri, stores, LABELLING_RUN, section.checkpoint)


def weights_at(uri: str, stores: Stores, key: str, which: str = "best") -> str:
    """The file of weights of a run, of a checkpoint, or that file itself; of a run the best
    checkpoint, or the last.

    Raises `JobError`, with the spec's `key`, where there is none.
    """
    if uri.lower().endswith(ENDINGS):
        return uri
    store = stores.open(uri)
    folder = RunFolder(store)
    best = folder.best() if which == "best" else None
    names = folder.names()
    if best is not None or names:
        return join(uri, best.name if best is not None else names[-1], WEIGHTS)
    if store.exists(WEIGHTS):
        return join(uri, WEIGHTS)
    raise JobError(
        f"{key}: expected a run with a checkpoint, got none at {uri}",
        fix="train that run first, or name another run, the URI of its folder or a file of weights",
    )
