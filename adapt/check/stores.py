"""The place of the checkpoints: one probe object is written, read back and deleted."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapt.check.subject import Findings, Subject, red
from adapt.platforms.platform import Finding
from storage.errors import StoreError
from storage.store import Store
from storage.uris import split_uri

WHAT = "checkpoint"


def checkpoint_findings(subject: Subject) -> Findings:
    """Write a probe to `checkpoint.uri`, read it and delete it, as checkpoints will be."""
    uri = subject.job.checkpoint.uri
    only_there = subject.only_there("checkpoint.uri", uri)
    if only_there is not None:
        yield Finding(WHAT, True, only_there)
        return
    key = f"segadapt-check-{uuid.uuid4().hex}"
    try:
        store = subject.stores.open(uri)
        with _no_new_folders(uri):
            yield _probed(store, key)
    except StoreError as error:
        yield red(WHAT, error)


def _probed(store: Store, key: str) -> Finding:
    content = key.encode()
    store.put(key, content)
    try:
        same = store.get(key) == content
    finally:
        kept = _deleted(store, key)
    if not same:
        found = f"{store.uri}/{key}: expected the written bytes, got others"
        fix = "check for a proxy or a gateway between; see docs/stores.md"
        return Finding(WHAT, False, found, fix, StoreError.exit_code)
    return kept or Finding(WHAT, True, f"{store.uri}: written, read back and deleted")


def _deleted(store: Store, key: str) -> Finding | None:
    """Remove the probe; a finding where that fails."""
    try:
        store.delete(key)
    except StoreError as error:
        found = f"the probe was written and cannot be deleted: {error}"
        fix = "grant the right to delete, which checkpoint.keep needs"
        return Finding(WHAT, False, found, fix, error.exit_code)
    return None


@contextmanager
def _no_new_folders(uri: str) -> Iterator[None]:
    """Remove the folders of this machine that a probe made."""
    scheme, path = split_uri(uri)
    folder = Path(path).expanduser().absolute()
    made = [one for one in (folder, *folder.parents) if scheme == "file" and not one.exists()]
    yield
    for one in made:
        if one.is_dir() and not any(one.iterdir()):
            one.rmdir()
