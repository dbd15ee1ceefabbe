"""The papers' discriminator: its golden outputs and gradients, size and smallest input."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.errors import JobError
from adapt.losses import class_probabilities, weighted_self_information
from adapt.models.discriminators import DomainClassifier, FullyConvolutionalDiscriminator
from tests.golden_recipe import initial, uniform

torch.set_num_threads(1)
ADAPTSEGNET_KEYS = ("conv1", "conv2", "conv3", "conv4", "classifier")
ADVENT_KEYS = ("0", "2", "4", "6", "8")
CASES = {
    "adaptsegnet/D1": ADAPTSEGNET_KEYS,
    "adaptsegnet/D2": ADAPTSEGNET_KEYS,
    "advent/d_aux": ADVENT_KEYS,
    "advent/d_main": ADVENT_KEYS,
}


def _golden_discriminator(tag: str, keys: tuple[str, ...]) -> FullyConvolutionalDiscriminator:
    """The network with the golden recipe's initial values."""
    network = FullyConvolutionalDiscriminator(19)
    state = network.state_dict()
    for key in state:
        _, index, kind = key.split(".")
        state[key] = initial(f"{tag}/{keys[int(index)]}.{kind}", state[key])
    network.load_state_dict(state)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("case", CASES)
def test_golden_outputs_and_gradients(shared_dir: Path, case: str, precision: str) -> None:
    dtype = {"f32": torch.float32, "f64": torch.float64}[precision]
    network = _golden_discriminator(case.partition("/")[2], CASES[case]).to(dtype)
    logits = (8 * uniform("input/disc_logits", (2, 19, 65, 129)) - 4).astype(np.float32)
    maps = class_probabilities(torch.tensor(logits, dtype=dtype))
    if case.startswith("advent"):
        maps = weighted_self_information(maps)
    maps.requires_grad_()
    output = network(maps)
    output.sum().backward()
    assert maps.grad is not None
    tolerance = {"f32": 1e-5, "f64": 1e-12}[precision]
    with np.load(shared_dir / "golden" / "discriminator.npz") as golden:
        expected = {
            name: golden[f"{case}/{precision}/{name}"]
            for name in ("out", "grad_in_absum", "grad_in_first8")
        }
    np.testing.assert_allclose(
        output.detach().numpy(), expected["out"], rtol=tolerance, atol=tolerance
    )
    found_sum = maps.grad.double().abs().sum().item()
    assert found_sum == pytest.approx(expected["grad_in_absum"].item(), rel=tolerance)
    first = maps.grad.flatten()[:8].numpy()
    np.testing.assert_allclose(first, expected["grad_in_first8"], rtol=tolerance, atol=tolerance)


def test_as_many_parameters_as_the_papers() -> None:
    network = FullyConvolutionalDiscriminator(19)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_781_121


@pytest.mark.parametrize("size_hw", [(32, 32), (33, 65), (97, 161)])
def test_a_logit_for_every_32_pixels(size_hw: tuple[int, int]) -> None:
    output = FullyConvolutionalDiscriminator(3, width=4)(torch.zeros(1, 3, *size_hw))
    assert output.shape == (1, 1, size_hw[0] // 32, size_hw[1] // 32)


def test_smaller_maps_are_refused() -> None:
    with pytest.raises(JobError, match=r"at least 32 pixels a side .* got \(31, 64\)"):
        FullyConvolutionalDiscriminator(3, width=4)(torch.zeros(1, 3, 31, 64))


@pytest.mark.parametrize("size_hw", [(1, 1), (9, 17)])
def test_stride_1_judges_every_unit_of_features(size_hw: tuple[int, int]) -> None:
    output = FullyConvolutionalDiscriminator(8, width=4, stride=1)(torch.zeros(2, 8, *size_hw))
    assert output.shape == (2, 1, *size_hw)


def test_the_domain_classifier_looks_at_one_unit_at_a_time() -> None:
    classifier = DomainClassifier(6, width=5)
    features = torch.randn(1, 6, 3, 4)
    changed = features.clone()
    changed[:, :, 1, 2] += 1
    differs = classifier(features) != classifier(changed)
    assert differs.shape == (1, 1, 3, 4)
    assert differs.nonzero().tolist() == [[0, 0, 1, 2]]
