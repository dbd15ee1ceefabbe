"""Files of weights: read without running them, what misfits, what they say of their network."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adapt.errors import JobError
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.models.weights import check_description, describe, misfit, read_description, read_weights

CONFIG = DeepLabV2Config(encoder="caffe_resnet101", weights="none", aspp_branches=2)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_training_programs_are_unwrapped(
    tmp_path: Path, tensors: dict[str, torch.Tensor], wrapper: str | None, prefix: str
) -> None:
    content: object = {prefix + key: value for key, value in tensors.items()}
    torch.save({wrapper: content, "epoch": 3} if wrapper else content, tmp_path / "weights.pth")
    found = read_weights(tmp_path / "weights.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_safetensors_are_read_and_their_digest_checked(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_weights(path, sha256=digest.upper()).keys() == tensors.keys()
    with pytest.raises(JobError, match=f"model.weights_sha256: expected {'0' * 64}, got {digest}"):
        read_weights(path, sha256="0" * 64)


class Malicious:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_files_that_hold_no_tensors_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": Malicious()}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("garbage.pth", "garbage.safetensors", "weights.h5"):
        (tmp_path / name).write_bytes(b"not weights at all")
    (tmp_path / "nothing.pth").write_bytes(b"")
    messages = {
        "absent.pth": "expected a file, got none",
        "code.pth": "cannot be read as one",
        "empty.pth": "expected tensors by name, got none in empty.pth",
        "list.pt": "expected tensors by name, got none in list.pt",
        "garbage.pth": "cannot be read as one",
        "garbage.safetensors": "cannot be read as one",
        "nothing.pth": "which is empty",
        "weights.h5": "cannot be read as one",
    }
    for name, message in messages.items():
        with pytest.raises(JobError, match=message):
            read_weights(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_what_misfits_is_listed_by_kind() -> None:
    own = {name: torch.zeros(2) for name in ("a", "b", "c", "d", "e", "bn.num_batches_tracked")}
    given = {"e": torch.zeros(3), "f": torch.zeros(2)}
    assert misfit(own, given) == (
        "missing: a, b, c and 1 more; unexpected: f; misshaped: e [3] instead of [2]"
    )
    assert misfit(own, own) == ""


def _described(tmp_path: Path, metadata: dict[str, str] | None) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata)
    return path


def test_a_file_says_whose_weights_it_holds(tmp_path: Path) -> None:
    path = _described(tmp_path, describe(CONFIG, 19))
    found = read_description(path)
    assert found == {
        "architecture": "deeplab_v2",
        "encoder": "caffe_resnet101",
        "aspp_branches": 2,
        "aux": True,
        "num_classes": 19,
    }
    check_description(found, CONFIG, 19)


def test_files_without_a_description_say_nothing(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        assert read_description(_described(tmp_path, metadata)) is None
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pth")
    assert read_description(tmp_path / "weights.pth") is None


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_broken_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    path = _described(tmp_path, {"segadapt.model": text})
    with pytest.raises(JobError, match=r"model.start_uri: .*weights.safetensors.*cannot be read"):
        read_description(path)


def test_a_file_that_is_no_safetensors_has_no_description(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(JobError, match=r"model.weights_uri: .*weights.safetensors.*cannot be read"):
        read_description(path, "model.weights_uri")
    with pytest.raises(JobError, match=r"absent.safetensors, which cannot be read"):
        read_description(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "pspnet"}, 'model.architecture: expected "pspnet",.*got "deeplab_v2"'),
        ({"encoder": "resnet18"}, 'model.encoder: expected "resnet18",.*got "caffe_resnet101"'),
        ({"aspp_branches": 4}, "model.aspp_branches: expected 4,.*model.start_uri.*got 2"),
        ({"aux": False}, "model.aux: expected false,.*got true"),
        ({"num_classes": 16}, "classes: expected 16,.*got 19"),
        ({"borders": True}, "model.borders: expected true,.*got null"),
    ],
)
def test_another_networks_weights_are_refused_by_key(changes: dict[str, Any], message: str) -> None:
    found = json.loads(describe(CONFIG, 19)["segadapt.model"])
    with pytest.raises(JobError, match=message):
        check_description({**found, **changes}, CONFIG, 19)


def test_a_file_may_tell_less() -> None:
    check_description({"encoder": "caffe_resnet101"}, CONFIG, 19)
    with pytest.raises(JobError, match=r"model.encoder: .*model.weights_uri"):
        check_description({"encoder": "resnet101"}, CONFIG, 19, "model.weights_uri")


@pytest.mark.parametrize("name", ["layer1.0.bn1.running_var", "module.bn.running_var"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_negative_running_variances_are_refused_by_name(
    name: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{suffix}"
    good = {"bn.running_mean": torch.tensor([-1.0, 2]), "bn.running_var": torch.tensor([0.0, 2])}
    for tensors, refused in ((good, False), (good | {name: torch.tensor([3, -0.001])}, True)):
        save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
        if not refused:
            assert read_weights(path).keys() == tensors.keys()
            continue
        with pytest.raises(JobError) as caught:
            read_weights(path)
        assert str(caught.value).startswith(
            f"model.weights_uri: {path.name}: expected running variances >= 0, got negative ones"
        )
        assert caught.value.problem.endswith("running_var") and caught.value.fix


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux")
def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(JobError, match=r"got mem, which cannot be read \(Input/output error\)"):
        read_weights(Path("/proc/self/mem"))
    with pytest.raises(JobError, match=r"got mem, which cannot be read \(Input/output error\)"):
        read_description(Path("/proc/self/mem"))
