"""Three training steps of each method against the papers' own programs, losses and weights.

The encoder is the programs' ResNet with one bottleneck a stage; everything else is the product's
own code. Where the programs list a parameter several times, the golden run lists it once.
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapt.batch import Batch, PixelFormat
from adapt.methods import METHODS, build_method
from adapt.methods.method import Method
from adapt.models.deeplab_v2 import DeepLabV2Config, DeepLabV2Decoder
from adapt.models.segmenter import Segmenter
from adapt.optim import OptimConfig, build_optimizers, set_lr

torch.set_num_threads(1)
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 2e-5, "f64": 1e-11}
FIGURES = ("sum", "abssum", "first8")
STEPS, SCHEDULE_STEPS, NUM_CLASSES = 3, 250_000, 19
ADAPTSEGNET_LOSSES = {
    "loss_seg_value{}": (("segmentation/{}", 1.0),),
    "loss_adv_target_value{}": (("adversarial/{}", 1.0),),
    "loss_D_value{}": (("discriminator_source/{}", 0.5), ("discriminator_target/{}", 0.5)),
}
ADVENT_LOSSES = {
    "loss_seg_src_{}": (("segmentation/{}", 1.0),),
    "loss_adv_trg_{}": (("adversarial/{}", 1.0),),
    "loss_d_{}": (("discriminator_target/{}", 0.5),),
}
MINENT_LOSSES = {
    "loss_seg_src_{}": (("segmentation/{}", 1.0),),
    "loss_ent_{}": (("entropy/{}", 1.0),),
}
ADAPTSEGNET_CONVS = ("conv1", "conv2", "conv3", "conv4", "classifier")
ADVENT_CONVS = ("0", "2", "4", "6", "8")


class Run(NamedTuple):
    """One golden run: how to configure the product for it, and how the program names things."""

    method: str
    options: dict[str, Any]
    model: dict[str, Any]
    losses: Mapping[str, tuple[tuple[str, float], ...]]
    heads: dict[str, str]
    discriminators: dict[str, str]
    convs: tuple[str, ...]


_ADAPTSEGNET_NAMES = ({"main": "2", "aux": "1"}, {"main": "D2", "aux": "D1"}, ADAPTSEGNET_CONVS)
_ADVENT_NAMES = (
    {"main": "main", "aux": "aux"},
    {"main": "d_main", "aux": "d_aux"},
    ADVENT_CONVS,
)
RUNS = {
    "adaptsegnet_multi": Run(
        "adaptsegnet", {}, {"aspp_branches": 2}, ADAPTSEGNET_LOSSES, *_ADAPTSEGNET_NAMES
    ),
    "adaptsegnet_single": Run(
        "adaptsegnet",
        {"weight_adv": (0.001, 0.0)},
        {"aspp_branches": 2, "weight_aux": 0.0},
        ADAPTSEGNET_LOSSES,
        *_ADAPTSEGNET_NAMES,
    ),
    "advent_advent": Run("advent", {}, {}, ADVENT_LOSSES, *_ADVENT_NAMES),
    "advent_minent": Run("minent", {}, {}, MINENT_LOSSES, *_ADVENT_NAMES),
}


class Bottleneck(nn.Module):
    """Caffe's bottleneck: the stride in the first 1x1 convolution."""

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = 4 * planes
        self.conv1 = nn.Conv2d(in_channels, planes, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.bn3 = nn.BatchNorm2d(out_channels)
        shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.bn1(self.conv1(features)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        return (self.bn3(self.conv3(inner)) + self.downsample(features)).relu()


class TinyEncoder(nn.Module):
    """The programs' ResNet with one bottleneck a stage, in the encoder's form."""

    name, output_stride = "tiny", 8
    channels, reductions = (256, 512, 1024, 2048), (4, 8, 8, 8)
    pixels = PixelFormat((0.0,) * 3, (1.0,) * 3)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.layer1 = nn.Sequential(Bottleneck(64, 64, 1, 1))
        self.layer2 = nn.Sequential(Bottleneck(256, 128, 2, 1))
        self.layer3 = nn.Sequential(Bottleneck(512, 256, 1, 2))
        self.layer4 = nn.Sequential(Bottleneck(1024, 512, 1, 4))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.pool(self.bn1(self.conv1(images)).relu())
        stages = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            stages.append(features)
        return tuple(stages)

    def norms(self) -> Iterator[nn.BatchNorm2d]:
        return (module for module in self.modules() if isinstance(module, nn.BatchNorm2d))


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return random.random_sample(int(np.prod(shape))).reshape(shape)


def _initial(name: str, tensor: Tensor) -> Tensor:
    """The golden recipe's initial value for the entry `name` of a program's network."""
    shape = tuple(tensor.shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(tensor)
    uniform = _uniform(name, shape)
    if len(shape) == 4:
        value = (2 * uniform - 1) * np.sqrt(6 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        value = 0.5 + uniform
    elif name.endswith(("running_mean", "bias")):
        value = 0.2 * uniform - 0.1
    elif name.endswith("bn3.weight"):
        value = 0.1 + 0.2 * uniform
    else:
        value = 0.5 + uniform
    return torch.tensor(value.astype(np.float32))


def _program_key(key: str, run: Run) -> str:
    """`NETWORK/KEY` in the program for a key of `method.state_dict()`."""
    part, *rest = key.split(".")
    if part == "discriminators":
        head, _, index, kind = rest
        return f"{run.discriminators[head]}/{run.convs[int(index)]}.{kind}"
    if rest[0] == "encoder":
        return "G/" + ".".join(rest[1:])
    _, _, head, _, branch, kind = rest
    layer = {"0": "layer6", "1": "layer5"}[head]
    return f"G/{layer}.conv2d_list.{branch}.{kind}"


def _build(run: Run, dtype: torch.dtype) -> Method:
    config = DeepLabV2Config(weights="none", **run.model)
    encoder: Any = TinyEncoder()
    decoder = DeepLabV2Decoder(config, encoder, NUM_CLASSES)
    segmenter = Segmenter(config, encoder, decoder, NUM_CLASSES)
    method = build_method(METHODS[run.method].Config(**run.options), segmenter)
    initial = {key: _initial(_program_key(key, run), t) for key, t in method.state_dict().items()}
    method.load_state_dict(initial)
    return method.to(dtype).train()


def _batches(step: int, dtype: torch.dtype) -> tuple[Batch, Batch]:
    images = {
        domain: (4 * _uniform(f"input/{domain}_image/{step}", (1, 3, *size_hw)) - 2)
        for domain, size_hw in (("source", (65, 129)), ("target", (64, 128)))
    }
    labels = np.floor(21 * _uniform(f"input/source_label/{step}", (1, 65, 129)))
    labels[labels >= NUM_CLASSES] = 255
    source, target = (
        torch.tensor(values.astype(np.float32)).to(dtype) for values in images.values()
    )
    return Batch(source, torch.tensor(labels).long(), ("0",)), Batch(target, None, ("0",))


def _train(method: Method, dtype: torch.dtype) -> Iterator[dict[str, float]]:
    """Unweighted losses by name after each step."""
    config = OptimConfig(schedule_steps=SCHEDULE_STEPS)
    optimizers = build_optimizers(config, method)
    for step in range(STEPS):
        set_lr(optimizers, config, step, total_steps=STEPS)
        method.zero_grad()
        logged: dict[str, float] = {}
        for term in method.losses(*_batches(step, dtype)):
            term.loss.backward()
            logged |= {name: value.item() for name, value in term.logged.items()}
        for optimizer in optimizers.values():
            optimizer.step()
        yield logged


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", RUNS)
def test_three_steps_are_the_programs(shared_dir: Path, name: str, precision: str) -> None:
    run, tolerance = RUNS[name], TOLERANCE[precision]
    method = _build(run, DTYPES[precision])
    with np.load(shared_dir / "golden" / "train.npz") as file:
        prefix = f"{name}/{precision}/"
        golden = {key[len(prefix) :]: file[key] for key in file if key.startswith(prefix)}
    compared = set()
    for step, logged in enumerate(_train(method, DTYPES[precision])):
        for loss, parts in run.losses.items():
            for head, label in run.heads.items():
                found = sum(share * logged[part.format(head)] for part, share in parts)
                expected = golden[f"loss/{loss.format(label)}"][step]
                assert found == pytest.approx(expected, rel=tolerance), (step, loss, head)
                compared.add(f"loss/{loss.format(label)}")
        for key, value in method.state_dict().items():
            entry = _program_key(key, run)
            if f"{entry}/sum" in golden:
                _compare(
                    value, {f: golden[f"{entry}/{f}"][step] for f in FIGURES}, tolerance, entry
                )
                compared |= {f"{entry}/{figure}" for figure in FIGURES}
    missed = {key for key in golden if not key.split("/")[-1].startswith("delta_")} - compared
    assert not missed


def _compare(value: Tensor, figures: dict[str, np.ndarray], tolerance: float, entry: str) -> None:
    found: dict[str, Any] = {
        "sum": value.double().sum().item(),
        "abssum": value.double().abs().sum().item(),
        "first8": value.flatten()[:8].double().numpy(),
    }
    scale = float(np.abs(figures["abssum"])) + 1e-12
    assert found["abssum"] == pytest.approx(figures["abssum"], rel=tolerance), entry
    assert found["sum"] == pytest.approx(figures["sum"], abs=scale * tolerance), entry
    first = np.asarray(figures["first8"])[: found["first8"].size]
    np.testing.assert_allclose(
        found["first8"], first, rtol=tolerance, atol=tolerance * 0.1, err_msg=entry
    )
