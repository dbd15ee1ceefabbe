"""The sharded tensors of a checkpoint, each rank's in a file of its own (PyTorch's distributed
checkpoint format).

No rank has a whole network: what ranks hold in parts is written in parts, and any number of ranks
reads it. `state.pt` has a mark in the place of each such tensor. The files are made in memory;
their index, which PyTorch pickles, is read without executing anything.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from adapt.errors import DataError
from adapt.ranks import local_part

SHARDS = "shards"
_MARK = "segadapt.shard"
_INDEX = ".metadata"

Make = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""An empty tensor of a shape and type, as this rank holds such."""


def apart(state: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Nested dicts, lists and tuples with marks for sharded tensors, and these by their marks."""
    if isinstance(state, Tensor) and local_part(state) is not state:
        mark = {_MARK: path, "shape": list(state.shape), "dtype": str(state.dtype)[6:]}
        return mark, {path: state.detach()}
    if isinstance(state, Mapping):
        pairs = {key: apart(value, f"{path}/{key}") for key, value in state.items()}
        return {key: rest for key, (rest, _) in pairs.items()}, _joined(pairs.values())
    if isinstance(state, list | tuple):
        parts = [apart(value, f"{path}/{number}") for number, value in enumerate(state)]
        return type(state)(rest for rest, _ in parts), _joined(parts)
    return state, {}


def _joined(parts: Any) -> dict[str, Tensor]:
    return {path: tensor for _, found in parts for path, tensor in found.items()}


def is_mark(value: Any) -> bool:
    """True for the mark of a sharded tensor."""
    return isinstance(value, Mapping) and _MARK in value


def marked(state: Any) -> dict[str, Mapping[str, Any]]:
    """The marks in nested values, by path."""
    if is_mark(state):
        return {state[_MARK]: state}
    values = state.values() if isinstance(state, Mapping) else state
    nested = isinstance(state, Mapping | list | tuple)
    return {path: one for v in (values if nested else ()) for path, one in marked(v).items()}


def filled(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Nested values with tensors in the place of their marks."""
    if is_mark(state):
        return tensors[state[_MARK]]
    if isinstance(state, Mapping):
        return {key: filled(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(filled(value, tensors) for value in state)
    return state


def files_of_rank(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """This rank's files by name; on the leader the index too. All ranks call it."""
    import fsspec  # of torch's own
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = f"/segadapt/{uuid4()}"
    save(dict(tensors), storage_writer=FsspecWriter(f"memory:/{folder}", sync_files=False))
    memory = fsspec.filesystem("memory")
    try:
        found = memory.ls(folder, detail=False)
        return {path.rsplit("/", 1)[1]: memory.cat_file(path) for path in found}
    finally:
        memory.rm(folder, recursive=True)


def read_files(folder: Path, state: Any, make: Make) -> Any:
    """A state with marks, and their tensors from the files in a folder. All ranks call it.

    Raises `DataError` for an index that is none.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors = {
        path: make(tuple(mark["shape"]), getattr(torch, mark["dtype"]))
        for path, mark in marked(state).items()
    }
    index = _index(folder)
    load(tensors, storage_reader=_reader(folder, index), no_dist=not dist.is_initialized())
    return filled(state, tensors)


def _reader(folder: Path, index: Any) -> Any:
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    class Reader(FileSystemReader):
        """Has read the index."""

        def read_metadata(self, *_given: Any, **_named: Any) -> Any:
            index.storage_meta.load_id = self.load_id
            return index

    return Reader(folder)


def _index(folder: Path) -> Any:
    """Which part of which tensor is where in which file."""
    try:
        with (folder / _INDEX).open("rb") as file:
            return _Index(file).load()
    except (pickle.UnpicklingError, AttributeError, EOFError, TypeError, OSError) as error:
        raise DataError(
            f"{SHARDS}/{_INDEX}: expected an index of shards, got a damaged one [{error}]"
        ) from error


_KNOWN = {
    "torch": ("Size", "bfloat16", "float16", "float32", "float64", "int64", "uint8"),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
}


class _Index(pickle.Unpickler):
    """Makes the classes of an index alone, and torch's types."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the known ones."""
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} in it")
        return super().find_class(module, name)
