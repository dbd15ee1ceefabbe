"""Names of the papers' programs and ours, both ways, against the golden lists."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.discriminators import FullyConvolutionalDiscriminator
from adapt.models.official.names import (
    DISCRIMINATOR_LAYERS,
    Style,
    discriminator_names,
    official_discriminator,
    official_heads,
    official_name,
    our_name,
)


@pytest.mark.parametrize(
    ("encoder", "aux", "network"), [("caffe_resnet101", True, "G"), ("caffe_vgg16", False, "VGG")]
)
def test_a_network_has_the_programs_keys_and_shapes(
    shared_dir: Path, encoder: str, aux: bool, network: str
) -> None:
    model = {"architecture": "deeplab_v2", "encoder": encoder, "aux": aux, "weights": "none"}
    with torch.device("meta"):
        state = build_segmenter(model).state_dict()
    heads = official_heads(encoder, 2 if aux else 1, "advent")
    named = {official_name(key, heads): list(tensor.shape) for key, tensor in state.items()}
    with np.load(shared_dir / "golden" / "recipe.npz") as recipe:
        keys = recipe[f"{network}/keys"].tolist()
        shapes = [str(shape) for shape in recipe[f"{network}/shapes"]]
    assert sorted(named) == sorted(keys)
    found = [
        tuple(int(n) for n in "".join(c if c.isdigit() else " " for c in s).split()) for s in shapes
    ]
    assert {key: list(shape) for key, shape in zip(keys, found, strict=True)} == named
    assert [our_name(official_name(key, heads), heads) for key in state] == list(state)


@pytest.mark.parametrize(("style", "network"), [("adaptsegnet", "D1"), ("advent", "d_main")])
def test_a_discriminator_has_the_programs_keys(
    shared_dir: Path, style: Style, network: str
) -> None:
    state = FullyConvolutionalDiscriminator(19).state_dict()
    named = official_discriminator(state, style)
    with np.load(shared_dir / "golden" / "recipe.npz") as recipe:
        assert sorted(named) == sorted(recipe[f"{network}/keys"].tolist())
    names = discriminator_names(list(named))
    assert names is not None
    assert all(torch.equal(named[key], state[ours]) for key, ours in names.items())


def test_other_keys_are_no_discriminator() -> None:
    layers = [f"{layer}.weight" for layer in DISCRIMINATOR_LAYERS["advent"]]
    assert discriminator_names(layers) is None
    assert discriminator_names([]) is None


def test_heads_of_single_level_networks_are_named_differently() -> None:
    assert official_heads("caffe_resnet101", 2, "adaptsegnet") == ("layer6", "layer5")
    assert official_heads("caffe_resnet101", 1, "adaptsegnet") == ("layer5",)
    assert official_heads("caffe_resnet101", 1, "advent") == ("layer6",)


@pytest.mark.parametrize(("encoder", "count"), [("resnet101", 2), ("caffe_vgg16", 2)])
def test_networks_the_papers_do_not_have_have_no_names(encoder: str, count: int) -> None:
    with pytest.raises(JobError, match=rf"model.encoder: .*{encoder}. with {count} heads"):
        official_heads(encoder, count, "advent")
