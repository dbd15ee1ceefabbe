"""Files of weights of the papers' programs, torchvision and timm -> ours, key by key.

A file is recognised by its keys and shapes, never by its name, and nothing is taken that would load
without a word and compute something else: AdaptSegNet and ADVENT write the same keys and sum two
and four of a head's branches; Caffe's and torchvision's ResNets share keys and shapes, but not
strides and pixels. What a file cannot show must be given.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

import adapt
from adapt.data.label_maps import LabelSpace
from adapt.errors import JobError
from adapt.models import ENCODERS, build_encoder, build_segmenter
from adapt.models.encoders.caffe_resnet import BLOCKS
from adapt.models.file_header import FileHeader, write_weights
from adapt.models.official.import_report import ImportReport
from adapt.models.official.names import (
    MULTI_LEVEL_HEADS,
    SINGLE_LEVEL_HEADS,
    VGG_HEAD,
    VGG_LAYERS,
    discriminator_names,
    our_name,
)
from adapt.models.weights import DESCRIPTION, load_fitting, read_weights

Pixels = Literal["bgr_mean", "rgb_std"]

RESNET_DEPTHS = {blocks: name for name, blocks in BLOCKS.items()}
CLASSIFIERS, CLASSIFIER = ("fc.", "classifier."), "ImageNet's classifier"
MAIN_CHANNELS, AUX_CHANNELS = 2048, 1024
UNDERSTOOD = (
    "the init file, networks and discriminators of AdaptSegNet and ADVENT, VGG-16 and ResNets of "
    "ImageNet, and timm's weights with --encoder"
)


class _Found(NamedTuple):
    """A file understood: our tensors, what they are, where they go, names and what is left out."""

    what: str
    use: str
    tensors: Mapping[str, Tensor]
    header: dict[str, str] | FileHeader
    names: dict[str, str]
    refused: dict[str, str]


def import_checkpoint(
    file: Path,
    out: Path,
    *,
    encoder: str | None = None,
    num_classes: int | None = None,
    aspp_branches: int | None = None,
    pixels: Pixels | None = None,
    classes: LabelSpace | None = None,
) -> ImportReport:
    """Read a file of weights, write ours to `out` (.safetensors), report the result.

    `classes` are those of a trained network, which no file names; its header states them, so that
    `adapt.load` needs no spec. Nothing in the file is executed. Raises `JobError` for a file that
    is not understood, whose shapes fit no network, or that does not show what an option must give.
    """
    if out.suffix != ".safetensors":
        raise JobError(f"--out: expected a .safetensors file, got {out.name!r}")
    state = read_weights(file, key="FILE")
    found = load_fitting(
        state,
        lambda tensors: _recognise(dict(tensors), encoder, num_classes, aspp_branches, pixels),
        "FILE",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    write_weights(found.tensors, _stated(found, file, classes), partial)
    partial.replace(out)
    filled = set(found.names.values())
    kept = tuple(key for key in found.tensors if key not in filled)
    return ImportReport(found.what, found.use, found.names, kept, found.refused, out)


def _stated(found: _Found, file: Path, classes: LabelSpace | None) -> dict[str, str]:
    """The header's entries. Raises `JobError` for classes that the network does not have."""
    header = found.header
    if not isinstance(header, FileHeader):
        if classes is not None:
            raise JobError(f"--classes: expected a trained network's file, got {found.what}")
        return header
    if classes is not None and classes.num_classes != header.num_classes:
        raise JobError(
            f"--classes: expected {header.num_classes}, the classes of the file's head, got "
            f"{classes.num_classes}"
        )
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    origin = {"imported_from": file.name, "imported_sha256": digest}
    lineage = {"version": adapt.__version__, **origin}
    return replace(header, classes=classes, lineage=lineage).entries()


def _recognise(
    state: dict[str, Tensor],
    encoder: str | None,
    num_classes: int | None,
    aspp_branches: int | None,
    pixels: Pixels | None,
) -> _Found:
    names = discriminator_names(list(state))
    if names is not None:
        tensors = {names[key]: tensor for key, tensor in state.items()}
        return _Found("discriminator", "method.discriminator_uris", tensors, {}, names, {})
    if any(".conv2d_list." in key and key.count(".") == 3 for key in state):
        return _network(state, num_classes, aspp_branches)
    if encoder is not None and encoder not in ENCODERS:
        return _timm_encoder(state, encoder)
    return _caffe_encoder(state, encoder, pixels)


def _network(
    state: dict[str, Tensor], num_classes: int | None, aspp_branches: int | None
) -> _Found:
    """A trained network of either program."""
    encoder = "caffe_vgg16" if any(key.startswith("features.") for key in state) else _depth(state)
    heads = VGG_HEAD if encoder == "caffe_vgg16" else _resnet_heads(state)
    first = f"{heads[0]}.conv2d_list.0.weight"
    if first not in state:
        raise JobError(f"FILE: expected a head with {first} on {encoder}, got none")
    classes = state[first].shape[0]
    if num_classes not in (None, classes):
        raise JobError(
            f"--num-classes: expected {classes}, the classes of the file's head, got {num_classes}",
            fix=f"pass --num-classes {classes}, or leave it out",
        )
    if aspp_branches not in (2, 4):
        raise JobError(
            f"--aspp-branches: expected 2 (AdaptSegNet's networks) or 4 (ADVENT's), got "
            f"{aspp_branches or 'none'}: both have the same keys, and the wrong number gives wrong "
            "logits"
        )
    values = {"encoder": encoder, "aspp_branches": aspp_branches, "aux": len(heads) == 2}
    model = {"architecture": "deeplab_v2", "weights": "none", **values}
    segmenter = build_segmenter(model, classes)
    names = {key: our_name(key, heads) for key in state}
    segmenter.load_weights({names[key]: tensor for key, tensor in state.items()})
    what = f"deeplab_v2 on {encoder}, {len(heads)} heads of {aspp_branches} branches"
    header = FileHeader(segmenter.config, classes, segmenter.pixels)
    return _Found(what, "model.start_uri", segmenter.state_dict(), header, names, {})


def _resnet_heads(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The file's heads, main head first: what `layer5` is shows in its channels alone."""
    channels = {
        head: state[f"{head}.conv2d_list.0.weight"].shape[1]
        for head in MULTI_LEVEL_HEADS
        if f"{head}.conv2d_list.0.weight" in state
    }
    main, aux = MULTI_LEVEL_HEADS
    known: dict[tuple[tuple[str, int], ...], tuple[str, ...]] = {
        ((main, MAIN_CHANNELS), (aux, AUX_CHANNELS)): MULTI_LEVEL_HEADS,
        ((main, MAIN_CHANNELS),): SINGLE_LEVEL_HEADS["advent"],
        ((aux, MAIN_CHANNELS),): SINGLE_LEVEL_HEADS["adaptsegnet"],
    }
    heads = known.get(tuple(channels.items()))
    if heads is None:
        raise JobError(
            f"FILE: expected {main} on {MAIN_CHANNELS} channels with or without {aux} on "
            f"{AUX_CHANNELS}, or {aux} alone on {MAIN_CHANNELS}, got {channels}"
        )
    return heads


def _caffe_encoder(state: dict[str, Tensor], encoder: str | None, pixels: Pixels | None) -> _Found:
    """Weights for an encoder of the papers, which must be Caffe's."""
    names, refused, is_init = _encoder_names(state)
    fits = "caffe_vgg16" if "features.0.weight" in names.values() else None
    if names and fits is None:
        fits = _depth({name: state[key] for key, name in names.items()})
    if fits is None:
        shown = ", ".join(list(state)[:4])
        raise JobError(f"FILE: expected {UNDERSTOOD}, got keys such as {shown}")
    if encoder not in (None, fits):
        raise JobError(
            f"--encoder: expected {fits}, whose layers the file has, got {encoder!r}",
            fix=f"pass --encoder {fits}",
        )
    if not is_init:
        _check_pixels(fits, pixels)
    network = build_encoder(fits, output_stride=8)
    tensors = {names[key]: state[key] for key in names}
    network.load(tensors)
    whole = {key: value for key, value in network.state_dict().items() if _is_filled(key, tensors)}
    return _Found(f"encoder {fits}", "model.weights_uri", whole, _header(fits), names, refused)


def _encoder_names(state: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, str], bool]:
    """The file's names -> an encoder's, those left out and why, and whether the papers start from
    it: one component before all names, `Scale.` or any other above the old head of 21 classes.
    """
    firsts = {key.partition(".")[0] for key in state}
    prefix = f"{firsts.pop()}." if len(firsts) == 1 else ""
    is_init = prefix == "Scale." or any(key.startswith(f"{prefix}layer5.") for key in state)
    names: dict[str, str] = {}
    refused: dict[str, str] = {}
    for key in state:
        name = key.removeprefix(prefix) if is_init else key
        layer, _, kind = name.removeprefix("features.").partition(".")
        if is_init and name.startswith("layer5."):
            refused[key] = "the old head of 21 classes, on other features"
        elif name.startswith(CLASSIFIERS):
            refused[key] = CLASSIFIER
        elif layer.isdigit() and int(layer) in VGG_LAYERS:
            names[key] = f"features.{VGG_LAYERS[int(layer)]}.{kind}"
        else:
            names[key] = name
    return names, refused, is_init


def _check_pixels(encoder: str, pixels: Pixels | None) -> None:
    if pixels != "bgr_mean":
        raise JobError(
            f"--pixels: expected bgr_mean, got {pixels or 'none'}: {encoder} is Caffe's, which "
            "reads BGR minus the mean, and weights of torchvision have the same names",
            fix="pass --pixels bgr_mean for a file trained by Caffe, or a timm encoder such as "
            "--encoder resnet101 for torchvision's, which have other strides and read RGB",
        )


def _timm_encoder(state: dict[str, Tensor], encoder: str) -> _Found:
    """Weights of torchvision or timm for one of timm's backbones."""
    refused = {key: CLASSIFIER for key in state if key.startswith(CLASSIFIERS)}
    features = {key: tensor for key, tensor in state.items() if key not in refused}
    report = build_encoder(encoder, output_stride=32).load(features)
    refused |= dict.fromkeys(report.dropped, CLASSIFIER)
    names = {key: key for key in features if key not in refused}
    tensors = {key: features[key] for key in names}
    return _Found(
        f"encoder {encoder}", "model.weights_uri", tensors, _header(encoder), names, refused
    )


def _header(encoder: str) -> dict[str, str]:
    """The file's own description: shapes alone do not distinguish Caffe's from torchvision's."""
    return {DESCRIPTION: json.dumps({"encoder": encoder})}


def _depth(state: Mapping[str, Tensor]) -> str:
    """The ResNet whose blocks the keys name. Raises `JobError` for another."""
    blocks = tuple(
        sum(f"layer{layer}.{block}.conv3.weight" in state for block in range(100))
        for layer in (1, 2, 3, 4)
    )
    if blocks not in RESNET_DEPTHS:
        known = ", ".join(f"{name} {list(count)}" for count, name in RESNET_DEPTHS.items())
        raise JobError(
            f"FILE: expected {UNDERSTOOD}, with bottlenecks in layer1 to layer4 of {known}, "
            f"got {list(blocks)}, with keys such as {', '.join(list(state)[:4])}"
        )
    return RESNET_DEPTHS[blocks]


def _is_filled(key: str, tensors: Mapping[str, Tensor]) -> bool:
    """True where the file has a tensor, or it is a counter that starts at 0."""
    return key in tensors or key.endswith("num_batches_tracked")
