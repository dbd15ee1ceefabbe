"""The two files beside a split's shards, written and read together.

`manifest.json` is written last, so its presence means that the split is complete.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from adapt.data.packed.codecs import REPACK
from adapt.data.packed.index import Index, check_index, parse_index
from adapt.data.packed.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    parse_manifest,
    refuse_large,
)
from adapt.errors import DataError
from storage.errors import MissingObject, ShortObject, StoreError
from storage.retry import DOWNLOADS, Retry, retried
from storage.shards.damage import advice, is_stored_so
from storage.shards.fetch import FIRST_DELAY_S
from storage.store import Store

MAX_INDEX_BYTES = 1 << 30
"""About two million samples of 35 ids."""
MAX_ROW_BYTES = 1 << 12
"""A row of the index: a key that fits a tar, 256 ids, a dozen numbers."""
ATTEMPTS = 5


def write_manifest(store: Store, split: str, manifest: Manifest, index: Index) -> Manifest:
    """Write `index.npz`, then `manifest.json` with the index's sha256 filled in; returns that
    manifest.
    """
    data = index.to_bytes()
    complete = manifest.model_copy(update={"index_sha256": hashlib.sha256(data).hexdigest()})
    content = json.dumps(complete.model_dump(mode="json"), indent=1).encode()
    uri = f"{store.uri}/{split}"
    check_index(complete, index, f"{uri}/index.npz")
    for file, limit_bytes, name, fix in (
        (data, MAX_INDEX_BYTES, "index.npz", "pack fewer samples into a split"),
        (content, MAX_MANIFEST_BYTES, "manifest.json", "pack with larger --shard-mb"),
    ):
        refuse_large(len(file), limit_bytes, f"{uri}/{name}", fix)
    store.put(f"{split}/index.npz", data)
    store.put(f"{split}/manifest.json", content)
    return complete


class DamagedFile(DataError):
    """A file beside the shards that cannot be read or contradicts another; `stored_so` as
    `storage.shards.damage.is_stored_so`."""

    stored_so: bool | None = True


def read_manifest(store: Store, split: str) -> tuple[Manifest, Index]:
    """The manifest and index of a packed split, verified against each other; damaged ones are
    downloaded again, as shards are.

    Raises `DataError` that names the object at fault, and `StoreError` where it is stored as it
    should be but arrives damaged.
    """
    again = Retry(DOWNLOADS, first_wait_s=FIRST_DELAY_S, on=DamagedFile, transient=_may_be_right)
    try:
        return again.call(lambda: _read(store, split))
    except DamagedFile as error:
        if error.stored_so:
            raise DataError(error.problem, error.fix) from error
        kind = DataError if error.stored_so is None else StoreError
        problem = f"{error.problem}; downloaded {DOWNLOADS} times"
        raise kind(problem, advice(error.stored_so, error.fix)) from error


def _may_be_right(error: Exception) -> bool:
    return isinstance(error, DamagedFile) and not error.stored_so


def _read(store: Store, split: str) -> tuple[Manifest, Index]:
    """One download of both files. Raises `DamagedFile`, and as `read_object`."""
    uri = f"{store.uri}/{split}/manifest.json"
    page = read_object(store, split, "manifest.json", MAX_MANIFEST_BYTES)
    got = {f"{split}/manifest.json": page}
    with _damage(store, got):
        manifest = parse_manifest(page, uri)
        if manifest.split != split:
            raise DataError(
                f"{uri}: split: expected {split!r}, the folder it lies in, got {manifest.split!r}",
                fix=f"move it to a folder of that name, {REPACK}",
            )
    uri = f"{store.uri}/{split}/index.npz"
    most_bytes = min(MAX_INDEX_BYTES, (64 << 20) + MAX_ROW_BYTES * manifest.num_samples)
    data = read_object(store, split, "index.npz", most_bytes)
    with _damage(store, got | {f"{split}/index.npz": data}):
        found = hashlib.sha256(data).hexdigest()
        if found != manifest.index_sha256:
            raise DataError(
                f"{uri}: expected sha256 {manifest.index_sha256[:12]}... as in the manifest, got "
                f"{found[:12]}...: damaged, or of another packing",
                fix=REPACK,
            )
        index = parse_index(data, uri)
        check_index(manifest, index, uri)
    return manifest, index


@contextmanager
def _damage(store: Store, got: Mapping[str, bytes]) -> Iterator[None]:
    """Turns `DataError`s of downloaded files, by key, into `DamagedFile`s. They may contradict
    each other because of a wrong byte in any of them."""
    try:
        yield
    except DataError as error:
        damaged = DamagedFile(error.problem, error.fix)
        stored = [is_stored_so(store, key, data) for key, data in got.items()]
        damaged.stored_so = False if False in stored else None if None in stored else True
        raise damaged from error


def packed_splits(store: Store) -> list[str]:
    """Names of the complete splits under the store's root."""
    ending = "/manifest.json"
    return [entry.key.removesuffix(ending) for entry in store.list() if entry.key.endswith(ending)]


def refuse_own_folder(store: Store) -> None:
    """Raise `DataError` where the store's root is the folder of a split itself, not the dataset's
    around it."""
    try:
        is_split = store.exists("manifest.json")
    except StoreError:
        return
    dataset, _, split = store.uri.rstrip("/").rpartition("/")
    if is_split and not dataset.endswith(("/", ":")):
        raise DataError(
            f"{store.uri}: expected the folder of a packed dataset, got that of its split "
            f"{split!r}",
            fix=f"write {dataset}, and {split} as the split",
        )


def read_object(store: Store, split: str, file_name: str, max_bytes: int) -> bytes:
    """One object of a split. `DataError` where it is missing, with the splits that are there, and
    where it is larger than any that `pack` writes.
    """
    try:
        return retried(lambda: _bounded(store, f"{split}/{file_name}", max_bytes), ATTEMPTS)
    except MissingObject as error:
        refuse_own_folder(store)
        raise DataError(
            f"{store.uri}/{split}/{file_name}: expected the file, got none"
            f"{_other_splits(store, split)}",
            fix="pack the split first, or let an interrupted pack finish",
        ) from error


def _other_splits(store: Store, split: str) -> str:
    """The other packed splits, in brackets; nothing where the store cannot list."""
    try:
        splits = [name for name in packed_splits(store) if name != split]
    except StoreError:
        return ""
    there = f"packed splits there: {', '.join(splits)}" if splits else "no packed split is there"
    return f" ({there})"


def _bounded(store: Store, key: str, max_bytes: int) -> bytes:
    """The object, of which no more than needed is read where it is too large."""
    download, data = store.download(key), bytearray()
    try:
        for block in download:
            data += block
            refuse_large(len(data), max_bytes, f"{store.uri}/{key}", REPACK)
    except ShortObject:
        pass  # it is empty, for which its parser has the better message
    finally:
        download.cancel()
    return bytes(data)
