"""Files of weights as training programs leave them, known by their bytes, not by their names.

Nothing in a file is executed: `torch.load` runs with `weights_only`, and objects of other programs
beside the tensors (options, numpy's scalars, loggers) are read as `Foreign` ones, without effect.
"""

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adapt.models.no_weights import (
    STATE_DICT,
    UNREADABLE,
    NoWeights,
    damaged,
    first_bytes,
    refuse_others,
    refused,
)

ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".pth.tar", ".pt.tar", ".bin")
"""Endings of files of weights, in lower case, where a URI may also name a folder."""
WRAPPERS = ("state_dict", "model")
"""Names that are opened where what is beside them has at most half as many tensors."""
COPIES = ("module.", "_orig_mod.")
"""Beginnings of names that PyTorch's own wrappers add."""

_BESIDE = "tensors outside of these"
_GLOBAL = re.compile(r"GLOBAL (\S+) was not an allowed global")
_MOST_FOREIGN = 500
_TYPES = [
    "bool",
    "complex",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "object",
    "range",
    "slice",
    "str",
    "tuple",
]
"""Python's own types in the state of objects such as schedulers: read as `Foreign` ones too."""


class Foreign(list[Any]):
    """An object of another program in a file: neither its code nor its content is used.

    A list, since torch appends to lists alone and a deque is one of them.
    """

    def __new__(cls, *_given: object) -> "Foreign":
        return list.__new__(cls)

    def __init__(self, *_given: object) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __setstate__(self, _state: object) -> None:
        pass


def _plain_dict(*_default: object) -> dict[Any, Any]:
    """A defaultdict as torch reads it: it sets items of plain ones alone."""
    return {}


def read_content(path: Path) -> Any:
    """The content of a file of tensors. Raises `NoWeights`."""
    if is_safetensors(path):
        try:
            return load_file(path)
        except UNREADABLE as error:
            raise damaged(error) from error
    refuse_others(path)
    return _read_pickle(path)


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as .safetensors do: a length, then a JSON object.

    Raises `NoWeights` for a file that cannot be read.
    """
    if not path.is_file():
        return False
    head = first_bytes(path, 9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def tensors_in(content: Any) -> dict[str, Tensor]:
    """The tensors by name in a file's content: those of the sole state dict in its wrappers.

    Raises `NoWeights` where there is none, or several.
    """
    if isinstance(content, Foreign):
        raise NoWeights("which is a whole pickled model", STATE_DICT)
    while isinstance(content, Mapping):
        own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        networks = {str(key): one for key, one in content.items() if _holds_tensors(one)}
        if not own and not networks:
            _refuse_foreign(content)
        if not networks:
            return _plain(own)
        if any(tensor.ndim for tensor in own.values()):
            networks = {_BESIDE: own, **networks}
        content = networks[_main(networks)]
    return {}


def _main(networks: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of the only one, or of the one that holds far more tensors than those beside it.

    Raises `NoWeights` where several may be meant.
    """
    counts = {name: _count(one) for name, one in networks.items()}
    main = next((name for name in (*WRAPPERS, _BESIDE) if name in counts), None)
    if len(counts) == 1:
        return next(iter(counts))
    if main is None or any(2 * counts[name] > counts[main] for name in counts if name != main):
        found = ", ".join(f"{name} ({count} tensors)" for name, count in counts.items())
        raise NoWeights(
            f"with several networks: {found}",
            "save the wanted one in a file of its own, by torch.save(content[NAME], FILE)",
        )
    return main


def _refuse_foreign(content: Mapping[Any, Any]) -> None:
    """Raise `NoWeights` where other objects stand in the place of tensors."""
    for key, value in content.items():
        if isinstance(value, Foreign):
            raise NoWeights(
                f"which holds no tensors, but NumPy's arrays or other objects, such as {key}",
                "save tensors by name, by torch.from_numpy(ARRAY) for arrays",
            )
        if isinstance(value, Mapping):
            _refuse_foreign(value)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what PyTorch's own wrappers put before every name."""
    for prefix in COPIES * 2:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _holds_tensors(value: object) -> bool:
    """True for a state dict and for what wraps one; not for an optimizer's state or metrics."""
    if not isinstance(value, Mapping) or "param_groups" in value:
        return False
    return any(
        isinstance(key, str) and (one.ndim if isinstance(one, Tensor) else _holds_tensors(one))
        for key, one in value.items()
    )


def _count(value: Mapping[str, Any]) -> int:
    return sum(
        1 if isinstance(one, Tensor) else _count(one) if isinstance(one, Mapping) else 0
        for one in value.values()
    )


def _read_pickle(path: Path) -> Any:
    """A file of `torch.save`, old or new, in which unknown classes are `Foreign`."""
    foreign: list[str] = []
    while True:
        try:
            allowed: list[Any] = [(Foreign, name) for name in foreign]
            allowed.append((_plain_dict, "collections.defaultdict"))
            # Opened here: by its path torch would ask its name.
            with (
                torch.serialization.safe_globals(allowed),
                warnings.catch_warnings(action="ignore"),  # of old files, before a refusal in words
                path.open("rb") as file,
            ):
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            unknown = _GLOBAL.search(str(error))
            if unknown is None or len(foreign) == _MOST_FOREIGN or unknown[1] in foreign:
                raise refused(str(error)) from error
            name = f"builtins.{unknown[1]}" if unknown[1] in _TYPES else unknown[1]
            if "." not in name or name in foreign:  # a function of Python itself, such as eval
                raise NoWeights(f"which cannot be read as one (it runs {name})") from error
            foreign.append(name)
        except UNREADABLE as error:
            raise damaged(error) from error


def without_common_prefix(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Names without the beginning (`model.`, `backbone.`) that most of them share, shortest first;
    those that do not begin so are left out."""
    prefix, below = "", dict(tensors)
    while below:
        firsts = [key.partition(".")[0] for key in below if "." in key]
        most = max(set(firsts), key=firsts.count, default="")
        if not most or 2 * firsts.count(most) <= len(below):
            return
        start = f"{most}."
        below = {key[len(start) :]: one for key, one in below.items() if key.startswith(start)}
        prefix += start
        yield prefix, below
