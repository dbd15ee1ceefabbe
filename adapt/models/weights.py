"""Files of weights: tensors by name, whether they fit a network, and how they describe themselves.

A whole network's file describes what silently changes what its weights compute, such as
AdaptSegNet's two summed branches of four: names and shapes are the same either way. The description
stands in the header of a .safetensors file; other files have none.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adapt.errors import MAX_SHOWN, JobError
from adapt.models.config import SegmenterConfig
from adapt.models.no_weights import NoWeights
from adapt.models.weight_files import (
    ENDINGS,
    is_safetensors,
    read_content,
    tensors_in,
    without_common_prefix,
)

log = logging.getLogger(__name__)

WEIGHTS, STATE = "weights.safetensors", "state.pt"
"""Names of a checkpoint's files: the network alone; everything that resuming needs."""

NETWORK_WEIGHTS = {name: f"{name}.safetensors" for name in ("student", "ema")}
"""The weights of a checkpoint's other networks, where it has them, by `evaluate.weights`."""

DESCRIPTION = "segadapt.model"
_Loaded = TypeVar("_Loaded")
_TAKE_ANOTHER = "take another checkpoint of that training"
_VARIANCE = "running_var"
"""The end of the names of batch norm's variances."""


def read_weights(
    path: Path, sha256: str | None = None, key: str = "model.weights_uri"
) -> dict[str, Tensor]:
    """Tensors by name from a file of weights, on the CPU. `key` is for messages.

    Opens the wrappers of training programs (`weight_files.tensors_in`); entries that are no tensors
    are left out. Nothing in the file is executed. Raises `JobError` for a file that is not what it
    should be, and for tensors with values that are no numbers, or that no training gives.
    """
    if not path.is_file():
        raise _no_file(path, key)
    if sha256 is not None:
        _check_digest(path, sha256)
    with _refused_as(path, key):
        tensors = tensors_in(read_content(path))
    if not tensors:
        raise JobError(
            f"{key}: expected tensors by name, got none in {path.name}",
            "save model.state_dict() in the program that it comes from",
        )
    where = key if key.endswith(path.name) else f"{key}: {path.name}"
    _check_kinds(tensors, where)
    check_finite(tensors, where, _TAKE_ANOTHER)
    _check_variances(tensors, where)
    return tensors


def _no_file(path: Path, key: str) -> JobError:
    """The error of a path at which no file is, with the files of weights beside or in it."""
    if not path.is_dir():
        return JobError(f"{key}: expected a file, got none at {path}", "check the path")
    files = sorted(one.name for one in path.iterdir() if one.name.lower().endswith(ENDINGS))
    listed = ", ".join(files[:MAX_SHOWN])
    fix = f"name a file in it: {listed}" if files else "name a file of weights; none is in it"
    return JobError(f"{key}: expected a file, got the folder {path}", fix)


@contextmanager
def _refused_as(path: Path, key: str) -> Iterator[None]:
    """Raise the `NoWeights` of a file as a `JobError` with its key."""
    try:
        yield
    except NoWeights as error:
        raise JobError(
            f"{key}: expected a file of tensors, got {path.name}, {error.problem}", error.fix
        ) from error


def _check_kinds(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise `JobError` naming tensors that are no plain arrays of real numbers, by their kind."""
    kinds: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        kind = _unusual_kind(tensor) or _whole_numbers(name, tensor)
        kinds.setdefault(kind, []).append(name)
    kinds.pop("", None)
    for kind, names in kinds.items():
        raise JobError(
            f"{where}: expected plain tensors of real numbers, got {kind} in {_first(names)}",
            "save them as dense tensors of float32 in the program that they come from",
        )


def _unusual_kind(tensor: Tensor) -> str:
    """The kind of a tensor that a network of float32 cannot take; empty for all others."""
    checks = {
        "no values (a meta tensor)": tensor.is_meta,
        "quantized values": tensor.is_quantized,
        "sparse or nested values": tensor.layout != torch.strided or tensor.is_nested,
        "complex numbers": tensor.is_complex(),
    }
    found = next((kind for kind, is_so in checks.items() if is_so), "")
    return found or ("" if _has_numbers(tensor) else f"values of {tensor.dtype}")


def _whole_numbers(name: str, tensor: Tensor) -> str:
    """The kind of weights or biases of whole numbers, as quantized files have them; empty for
    others, such as counts and tables of indices."""
    learned = name.rpartition(".")[2] in ("weight", "bias")
    return f"whole numbers ({tensor.dtype})" if learned and not tensor.is_floating_point() else ""


def _has_numbers(tensor: Tensor) -> bool:
    """False for the types of packed bits, which no operation reads."""
    try:
        tensor.flatten()[:1].float()
    except (RuntimeError, TypeError):
        return False
    return True


def check_finite(tensors: Mapping[str, Tensor], where: str, fix: str) -> None:
    """Raise `JobError` naming the tensors that hold values which are no numbers, or which the
    float32 of a network cannot hold."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    large = [name for name in bad if tensors[name].dtype == torch.float64]
    large = [name for name in large if tensors[name].isfinite().all()]
    if large:
        raise JobError(
            f"{where}: expected numbers of float32, got larger ones in {_first(large)}", fix
        )
    if bad:
        raise JobError(
            f"{where}: expected finite numbers, got NaN or infinity in {_first(bad)}", fix
        )


def _is_finite(tensor: Tensor) -> bool:
    """As float32, which networks have."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided:
        return True
    return bool(tensor.float().isfinite().all())


def _check_variances(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise `JobError` naming the running variances of batch norm that have values below zero: the
    network would compute NaN, or scale without bound."""
    bad = [
        name
        for name, tensor in tensors.items()
        if name.endswith(_VARIANCE) and tensor.numel() and float(tensor.detach().min()) < 0
    ]
    if bad:
        raise JobError(
            f"{where}: expected running variances >= 0, got negative ones in {_first(bad)}",
            _TAKE_ANOTHER,
        )


def load_fitting(
    tensors: Mapping[str, Tensor], load: Callable[[Mapping[str, Tensor]], _Loaded], key: str
) -> _Loaded:
    """`load(tensors)`, or, where that does not fit, with names without the prefix that most share.

    Raises the `JobError` of `load(tensors)` where neither fits.
    """
    try:
        return load(tensors)
    except JobError:
        for prefix, below in without_common_prefix(tensors):
            with suppress(JobError):
                loaded = load(below)
                others = [name for name in tensors if not name.startswith(prefix)]
                rest = f"; left out: {_first(others)}" if others else ""
                log.info("%s: the prefix %r of the names is stripped%s", key, prefix, rest)
                return loaded
        raise


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Why `given` cannot be loaded into a network with the tensors `own`, or nothing where it can.

    Batch norm's counters of batches may be missing: old files lack them and nothing reads them.
    """
    missing = [key for key in own if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    misshaped = [
        f"{key} {list(given[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshaped": misshaped}
    return "; ".join(f"{kind}: {_first(keys)}" for kind, keys in kinds.items() if keys)


def describe(config: SegmenterConfig, num_classes: int) -> dict[str, str]:
    """The header of a file with this network's weights: what `check_description` compares."""
    return {DESCRIPTION: json.dumps(_described(config, num_classes))}


def read_description(path: Path, key: str = "model.start_uri") -> dict[str, Any] | None:
    """The network that a file of weights describes; None where it has no description.

    Raises `JobError` for a .safetensors file that is none.
    """
    text = read_entries(path, key).get(DESCRIPTION)
    try:
        return None if text is None else dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise _unreadable(path, key, error) from error


def read_entries(path: Path, key: str) -> dict[str, str]:
    """The entries of a file's header by name; none where it is no .safetensors file.

    Raises `JobError` for one that only its name makes one.
    """
    with _refused_as(path, key):
        if path.is_file() and not is_safetensors(path):
            if path.suffix.lower() == ".safetensors":
                read_content(path)
            return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise _unreadable(path, key, error) from error


def _unreadable(path: Path, key: str, error: Exception) -> JobError:
    reason = str(error).partition("\n")[0]
    return JobError(
        f"{key}: expected a file of tensors, got {path.name}, which cannot be read as one "
        f"({reason})"
    )


def check_description(
    found: Mapping[str, Any],
    config: SegmenterConfig,
    num_classes: int,
    key: str = "model.start_uri",
) -> None:
    """Raise `JobError` where weights that describe themselves as `found` belong to another network.

    Only what `found` holds is compared, so that a file may describe less. `key` names the file's.
    """
    wanted = _described(config, num_classes)
    for field, value in found.items():
        if value != wanted.get(field):
            spec_key = "classes" if field == "num_classes" else f"model.{field}"
            raise JobError(
                f"{spec_key}: expected {json.dumps(value)}, with which the weights at {key} were "
                f"trained, got {json.dumps(wanted.get(field))}",
                fix="change it or name other weights",
            )


def _described(config: SegmenterConfig, num_classes: int) -> dict[str, Any]:
    """As JSON gives it back, where a tuple is a list. Weights without adapters go without them, so
    that adapters may start from them."""
    fields = config.model_dump(mode="json", include=set(config.described))
    if config.adapters is None:
        fields.pop("adapters", None)
    return {**fields, "num_classes": num_classes}


def _first(keys: list[str], shown: int = 3) -> str:
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _check_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise JobError(f"model.weights_sha256: expected {sha256}, got {found} for {path.name}")
