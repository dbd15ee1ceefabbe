"""Files of weights that people have: endings, wrappers, prefixes, other objects, other files."""

import argparse
import gzip
import logging
import pickle
import re
import tarfile
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models.weights import load_fitting, misfit, read_description, read_weights

TENSORS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2)}


class Colour(Enum):
    """Another program's key."""

    RED = 1


class Logger:
    """An object of another program."""

    def __init__(self) -> None:
        self.history = [np.float64(0.5)]


def saved(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def assert_ours(found: Mapping[str, Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize(
    "name", ["a.ckpt", "a.pth.tar", "a.bin", "A.PTH", "a.PT", "a", "a.weights", "a.safetensors"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_is_known_by_its_bytes(tmp_path: Path, name: str, zipped: bool) -> None:
    path = saved(tmp_path / name, TENSORS, _use_new_zipfile_serialization=zipped)
    assert_ours(read_weights(path))
    save_file(TENSORS, tmp_path / f"safe-{name}")
    assert_ours(read_weights(tmp_path / f"safe-{name}"))


@pytest.mark.parametrize(
    "content",
    [
        {"model_state": TENSORS, "epoch": 3},
        {"model_state_dict": TENSORS, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        {"net": OrderedDict(TENSORS), "acc": torch.tensor(0.5)},
        {"model_ema": TENSORS},
        {"checkpoint": {"params": TENSORS}, "lr": 0.1},
        {"state_dict": {"model": TENSORS}},
        {"model": TENSORS, "model_ema": {"conv.weight": torch.zeros(1)}},
        {
            "network": TENSORS,
            "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 1}]},
        },
        {f"module.module.{key}": value for key, value in TENSORS.items()},
        {"model": {f"module._orig_mod.{key}": value for key, value in TENSORS.items()}},
        {**TENSORS, "epoch": 3},
    ],
    ids=lambda content: "+".join(content),
)
def test_the_sole_state_dict_is_opened(tmp_path: Path, content: object) -> None:
    assert_ours(read_weights(saved(tmp_path / "a.pth", content)))


def test_several_networks_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"G": TENSORS, "D": {"head": {"w": torch.ones(1)}}})
    with pytest.raises(
        JobError, match=r"got a.pth, with several networks: G \(2 tensors\), D \(1 tensors\)"
    ):
        read_weights(path)


OTHER = {key: value + 1 for key, value in TENSORS.items()}


@pytest.mark.parametrize(
    ("content", "listed"),
    [
        ({"ema": TENSORS, "model": OTHER}, "ema (2 tensors), model (2 tensors)"),
        ({"state_dict": TENSORS, "model": OTHER, "epoch": 1}, "state_dict (2 tensors), model (2"),
        ({"state_dict": TENSORS, "state_dict_ema": OTHER}, "state_dict (2 tensors), state_dict_e"),
        ({"a": {"model": TENSORS, "teacher": {"net": OTHER}}}, "model (2 tensors), teacher (2 te"),
        ({**TENSORS, "ema": OTHER}, "tensors outside of these (2 tensors), ema (2 tensors)"),
        ({**OTHER, "model": TENSORS}, "tensors outside of these (2 tensors), model (2 tensors)"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_no_network_is_taken_silently_beside_another(
    tmp_path: Path, content: object, listed: str
) -> None:
    with pytest.raises(JobError, match=re.escape(f"with several networks: {listed}")) as told:
        read_weights(saved(tmp_path / "a.pth", content))
    assert "Fix: save the wanted one in a file of its own" in str(told.value)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TENSORS, "class_weights": torch.ones(19)},
        {"state_dict": TENSORS, "criterion": {"weight": torch.ones(19)}, "epoch": 3},
        {"model": TENSORS, "optimizer": {"state": {0: TENSORS}, "param_groups": [{"lr": 1}]}},
        {"state_dict": TENSORS, "optimizer_states": [{"state": {0: OTHER}, "param_groups": []}]},
        {**TENSORS, "extra": {"scale": torch.ones(1)}},
        {"net": defaultdict(list, TENSORS), "metrics": {"miou": torch.tensor(0.5)}},
    ],
    ids=lambda content: "+".join(content),
)
def test_what_is_no_network_beside_one_does_not_matter(tmp_path: Path, content: object) -> None:
    assert_ours(read_weights(saved(tmp_path / "a.pth", content)))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        np.float64(0.7),
        np.arange(3),
        argparse.Namespace(lr=0.1, root=Path("/data")),
        SimpleNamespace(a=1),
        Logger(),
        [Logger(), {"deep": np.int64(1)}],
        torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)]), 3),
        datetime(2026, 1, 1),
        timedelta(1),
        defaultdict(list, {"loss": [0.5]}),
        defaultdict(float),
        deque([1, 2], 3),
        frozenset([1]),
        range(3),
        {Colour.RED: slice(1)},
    ],
    ids=lambda beside: type(beside).__name__,
)
def test_objects_beside_tensors_do_not_hinder(tmp_path: Path, beside: object, zipped: bool) -> None:
    content = {"args": beside, "state_dict": TENSORS}
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    assert_ours(read_weights(path))


@pytest.mark.parametrize("wrapped", [True, False])
def test_arrays_of_numpy_are_called_that(tmp_path: Path, wrapped: bool) -> None:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    path = saved(tmp_path / "a.pth", {"model": arrays, "epoch": 3} if wrapped else arrays)
    with pytest.raises(JobError, match=r"NumPy's arrays or other objects, such as conv.weight\. F"):
        read_weights(path)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.py")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pth", b"1")


def _script(path: Path) -> None:
    torch.jit.script(nn.Linear(1, 1)).save(path)


class Code:
    def __init__(self, function: Any, *given: object) -> None:
        self.way = (function, given)

    def __reduce__(self) -> Any:
        return self.way


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "which is empty. Fix: download it again"),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "which is a pointer of Git LFS. Fix: fetch the file itself",
    ),
    "page": (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "which is a web page"),
    "html": (lambda path: path.write_text("\ufeff<HTML>"), "which is a web page"),
    "xml": (lambda path: path.write_text("<?xml version='1.0'?><Error/>"), "an XML document"),
    "comment": (lambda path: path.write_text("<!-- saved --><html>"), "which is a web page"),
    "head": (lambda path: path.write_text("<HEAD><TITLE>Sign in"), "which is a web page"),
    "utf-16": (lambda path: path.write_text("<html>", encoding="utf-16"), "which is a web page"),
    "error": (lambda path: path.write_text("<Error><Code>NoSuchKey"), "which is an XML document"),
    "json": (lambda path: path.write_text('{"error": "quota"}'), "which is a JSON document"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"1")), "which is a gzip archive"),
    "tar": (_tar, "which is a tar archive. Fix: unpack it"),
    "zip": (_zip, r"a zip archive of other files \(weights.pth\). Fix: unpack it"),
    "script": (_script, "which is a TorchScript program. Fix: save model.state_dict"),
    "module": (lambda path: torch.save(Logger(), path), "which is a whole pickled model"),
    "eval": (lambda path: torch.save({"a": Code(eval, "1")}, path), r"\(it runs eval\)"),
    "system": (
        lambda path: torch.save({"a": Code(__import__("os").system, "true")}, path),
        r"\(it runs posix.system\)",
    ),
    "text": (lambda path: path.write_bytes(b"not weights at all"), "cannot be read as one"),
    "cut": (lambda path: _cut(path, 200), "cannot be read as one"),
    "cut safetensors": (lambda path: _cut_safetensors(path), "cannot be read as one"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "cannot be read as one"),
}


READABLE = ("module",)
"""Without tensors, but a file of `torch.save`: such have no description."""


def _cut(path: Path, num_bytes: int) -> None:
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-num_bytes])


def _cut_safetensors(path: Path) -> None:
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_other_files_are_called_what_they_are(tmp_path: Path, kind: str, name: str) -> None:
    write, message = WRONG[kind]
    write(tmp_path / name)
    with pytest.raises(
        JobError, match=rf"^FILE: expected a file of tensors, got {name}.*{message}"
    ) as told:
        read_weights(tmp_path / name, key="FILE")
    if name.endswith(".safetensors") and kind not in READABLE:
        with pytest.raises(JobError) as described:
            read_description(tmp_path / name, key="FILE")
        assert str(described.value).startswith(str(told.value).partition(" (")[0])
    assert "weights_only" not in str(told.value) and "safe_globals" not in str(told.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_no_numbers_are_refused_by_name(
    tmp_path: Path, value: float, dtype: torch.dtype
) -> None:
    bad = TENSORS | {"bn.running_var": torch.tensor([1.0, value]).to(dtype)}
    bad |= {"num_batches_tracked": torch.tensor(3)}
    save_file(bad, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.safetensors", saved(tmp_path / "a.pth", {"model": bad})):
        with pytest.raises(
            JobError, match=rf"^K: {path.name}: .* got NaN or infinity in bn.running_var\. Fix: "
        ):
            read_weights(path, key="K")


UNUSUAL: dict[str, tuple[Callable[[], Tensor], str]] = {
    "coo": (lambda: torch.eye(2).to_sparse(), "sparse or nested values"),
    "csr": (lambda: torch.eye(2).to_sparse_csr(), "sparse or nested values"),
    "meta": (lambda: torch.empty(2, device="meta"), "no values (a meta tensor)"),
    "qint8": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "quantized values",
    ),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "complex numbers"),
    "int8": (lambda: torch.ones(2, dtype=torch.int8), "whole numbers (torch.int8)"),
    "bits": (lambda: torch.ones(2, dtype=torch.uint8).view(torch.bits8), "values of torch.bits8"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    make, found = UNUSUAL[kind]
    path = saved(tmp_path / "a.pth", {"model": TENSORS | {"head.weight": make()}})
    message = f"K: a.pth: expected plain tensors of real numbers, got {found} in head.weight. Fix"
    with pytest.raises(JobError, match=f"^{re.escape(message)}"):
        read_weights(path, key="K")


def test_numbers_that_float32_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -1e300], dtype=torch.float64)
    save_file(TENSORS | {"head.weight": values}, tmp_path / "a.safetensors")
    message = "K: a.safetensors: expected numbers of float32, got larger ones in head.weight"
    with pytest.raises(JobError, match=f"^{message}"):
        read_weights(tmp_path / "a.safetensors", key="K")
    kept = {"w": torch.tensor([3e38, 1e-300], dtype=torch.float64)}
    save_file(kept, tmp_path / "b.safetensors")
    assert torch.equal(read_weights(tmp_path / "b.safetensors")["w"], kept["w"])


def load(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    differences = misfit(TENSORS, tensors)
    if differences:
        raise JobError(f"K: {differences}")
    return tensors


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "a.b.module."])
@pytest.mark.parametrize("others", [{}, {"loss.weight": torch.ones(4)}])
def test_a_prefix_is_stripped_where_that_makes_everything_fit(
    prefix: str, others: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    given = {prefix + key: value for key, value in TENSORS.items()} | others
    with caplog.at_level(logging.INFO):
        assert_ours(load_fitting(given, load, "K"))
    assert f"K: the prefix {prefix!r} of the names is stripped" in caplog.text
    assert ("left out: loss.weight" in caplog.text) == bool(others)


def test_what_fits_in_no_way_is_told_as_it_is() -> None:
    with pytest.raises(JobError, match=r"^K: missing: conv.weight, conv.bias; unexpected: a.b.x"):
        load_fitting({"a.b.x": torch.ones(1), "a.b.conv.weight": torch.ones(1)}, load, "K")
    assert_ours(load_fitting(TENSORS, load, "K"))


def test_what_holds_no_weights_has_a_fix(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^K: expected a file, got the folder .*none is in it\.$"):
        read_weights(tmp_path, key="K")
    path = saved(tmp_path / "a.pth", {})
    with pytest.raises(JobError, match=r"got none in a.pth\. Fix: save model.state_dict\(\)"):
        read_weights(path, key="K")
    with pytest.raises(JobError, match=r"got the folder .*\. Fix: name a file in it: a.pth\.$"):
        read_weights(tmp_path, key="K")
    with pytest.raises(JobError, match=r"got none at .*b.pth\. Fix: check the path\.$"):
        read_weights(tmp_path / "b.pth", key="K")


def test_one_flipped_bit_is_damage(tmp_path: Path) -> None:
    """torch reads such a file without a word."""
    path = saved(tmp_path / "a.pth", {"w": torch.zeros(1000), "v": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(bytes(400)) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(JobError, match=r"a.pth, which is damaged \(.*/data/0 differs from its"):
        read_weights(path, key="K")


def _stating(content: bytearray, entry: bytes, offset: int, value: int) -> None:
    """Write a value into a field of the entry's header in the zip's central directory."""
    name = content.rindex(entry)
    start = content.rindex(b"PK\x01\x02", 0, name)
    content[start + offset : start + offset + 2] = value.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("offset", "value"), [(10, 99), (8, 1), (10, 8)], ids=["method", "encrypted", "deflated"]
)
def test_entries_that_zip_cannot_read_are_damage(tmp_path: Path, offset: int, value: int) -> None:
    path = saved(tmp_path / "a.pth", {"w": torch.full((1000,), -1.5), "v": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    _stating(content, b"a/data/0", offset, value)
    path.write_bytes(content)
    with pytest.raises(JobError, match=r"^K: .* a.pth, which is damaged \(a/data/0 "):
        read_weights(path, key="K")


@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_anywhere_are_refused_in_words(tmp_path: Path, zipped: bool) -> None:
    """Or read, where the bytes do not matter, or are values without a checksum."""
    path = saved(tmp_path / "a.pth", TENSORS, _use_new_zipfile_serialization=zipped)
    whole, random = path.read_bytes(), Random(5)
    for _ in range(150):
        content = bytearray(whole)
        near = len(whole) - 700 if random.random() < 0.5 else 0  # names, fields, offsets
        content[random.randrange(near, len(whole))] = random.choice([0, 255, random.randrange(256)])
        path.write_bytes(content)
        with suppress(JobError):
            read_weights(path, key="K")


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "a.pth", TENSORS)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_weights(path, key="K").keys() == TENSORS.keys()


def test_torch_s_advice_to_trust_a_file_never_shows(tmp_path: Path) -> None:
    (tmp_path / "zeros.pth").write_bytes(bytes(5000))
    with pytest.raises(JobError, match=r"no file of torch\.save") as refused:
        read_weights(tmp_path / "zeros.pth", key="K")
    assert "weights_only" not in str(refused.value)
