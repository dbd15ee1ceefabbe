"""The contract of every method and every architecture.

What an architecture can break (gradients, odd sizes, labels that are all ignored) is tested with
AdvEnt on every architecture, and with every method on the papers' network; all other pairs build
their graphs on the meta device, which has shapes and gradients but no numbers.
"""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from adapt.batch import IGNORED
from adapt.methods import METHODS
from adapt.methods.method import Method, frozen, weighted
from adapt.models import ARCHITECTURES
from tests.built_methods import (
    back_propagated,
    built_method,
    logged,
    random_batch,
    target_batch,
    with_gradient,
)
from tests.networks import TEACHER
from tests.tiers import one_in

torch.set_num_threads(1)
VARIANTS: dict[str, dict[str, Any]] = {
    "adaptsegnet features": {"name": "adaptsegnet", "space": "features"},
    "adaptsegnet least squares": {"name": "adaptsegnet", "gan": "least_squares"},
    "minent ranking and prior": {"name": "minent", "ranking": 0.3, "class_prior": {"mu": 0.5}},
    "advent prior": {"name": "advent", "class_prior": {"weight": 0.5}},
    "dacs mirror": {
        "name": "dacs",
        "teacher": {"mirror": True, "norm": "running"},
        "pseudo_labels": {"quality": "image", "margins": [0.1, 0.2, 0.1, 0.0]},
        "augmentation": {"decided_per": "image", "grey_chance": 0.5},
    },
    "daformer things": {"name": "daformer", "feature_distance": {"classes": [1, 3]}},
    "daformer without distance": {"name": "daformer", "feature_distance": None},
    "mic advent": {"name": "mic", "host": {"name": "advent"}, "block_px": 16},
    "masktwins dacs": {
        "name": "masktwins",
        "host": {"name": "dacs", "pseudo_labels": {"quality": "class"}},
    },
    "distil frozen": {"name": "distil", "teacher": {"model": TEACHER, "uri": "trained"}},
    "vfm_uda plus plus": {
        "name": "vfm_uda",
        "masks": None,
        "source_augmentation": {"decided_per": "image", "jitter": 0.8, "hue": 0.4},
        "target_augmentation": {"jitter_chance": 0.9, "blur_chance": 0},
    },
    "fcns_in_the_wild global": {"name": "fcns_in_the_wild", "weight_sizes": 0.0},
}
CASES = {name: {"name": name} for name in METHODS} | VARIANTS
PAIRS = [
    *((architecture, "advent") for architecture in ARCHITECTURES),
    *(("deeplab_v2", case) for case in CASES if case != "advent"),
]
WITHOUT_NUMBERS = (
    "source_only",
    "fcns_in_the_wild global",
    "adaptsegnet",
    "minent",
    "fda",
    "dacs",
    "daformer",
    "mic advent",
    "masktwins dacs",
    "distil frozen",
    "class_balanced_self_training",
    "intra_da",
)
RECIPES = ("vfm_uda",)
"""Methods of parts that others have on every architecture: on the fastest, and on one with losses
of its own."""
OTHER_PAIRS = [
    *(pair for pair in product(ARCHITECTURES, WITHOUT_NUMBERS) if pair not in PAIRS),
    *product(("pspnet", "encnet"), RECIPES),
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Method:
    """A method on an architecture."""
    architecture, case = request.param
    return built_method(architecture=architecture, **CASES[case])


@pytest.fixture(scope="module", params=CASES)
def method(request: pytest.FixtureRequest) -> Method:
    """A method on the network of the papers."""
    return built_method(**CASES[request.param])


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> None:
    for name in {"method", "pair"} & set(request.fixturenames):
        request.getfixturevalue(name).zero_grad()


@pytest.mark.slow
def test_gradient_reaches_every_trainable_parameter(pair: Method) -> None:
    list(back_propagated(pair, random_batch(1, True, size=2), target_batch(pair, 2, size=2)))
    trainable = {name for name, p in pair.named_parameters() if p.requires_grad}
    assert with_gradient(pair) == trainable


def test_each_method_is_in_every_pair() -> None:
    """Class sizes read numbers: that method is without them where there are none."""
    assert {CASES[case]["name"] for case in (*WITHOUT_NUMBERS, *RECIPES, "advent")} == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "case"), one_in(7, OTHER_PAIRS))
def test_every_other_pair_has_a_gradient_for_every_trainable_parameter(
    architecture: str, case: str
) -> None:
    with torch.device("meta"):
        method = built_method(architecture=architecture, **CASES[case])
        source, target = random_batch(1, True, (33, 65), size=2), target_batch(method, 2, size=2)
        terms = list(back_propagated(method, source, target))
    assert all(term.loss.shape == () for term in terms)
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert terms and not without


@pytest.mark.slow
def test_terms_are_finite_scalars_at_any_size(pair: Method) -> None:
    for term in back_propagated(pair, random_batch(1, True, (33, 65)), target_batch(pair, 2)):
        assert term.loss.shape == () and term.loss.isfinite()
        for value in term.logged.values():
            assert value.shape == () and value.isfinite() and not value.requires_grad


@pytest.mark.slow
def test_logged_names_are_the_same_each_step(method: Method) -> None:
    steps = []
    for seed in (1, 3):
        terms = back_propagated(method, random_batch(seed, True), target_batch(method, seed + 1))
        steps.append([name for term in terms for name in term.logged])
    assert steps[0] == steps[1]
    assert len(set(steps[0])) == len(steps[0])


@pytest.mark.slow
def test_finite_where_all_source_labels_are_ignored(pair: Method) -> None:
    source = random_batch(1, True)._replace(labels=torch.full((1, 64, 64), IGNORED))
    for term in back_propagated(pair, source, target_batch(pair, 2)):
        assert term.loss.isfinite()
    gradients = [p.grad for p in pair.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.slow
def test_bf16_gives_float32_losses_near_full_precision(method: Method) -> None:
    source, target = random_batch(1, True), target_batch(method, 2)
    expected = logged(method.losses(source, target))
    with torch.autocast("cpu", torch.bfloat16):
        found = logged(method.losses(source, target))
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.01)


def test_adversaries_and_segmenter_are_all_that_learns(method: Method) -> None:
    parts = [*method.learning(), *method.adversaries().values()]
    owned = [id(p) for part in parts for p in part.parameters()]
    learning = [id(p) for p in method.parameters() if p.requires_grad]
    assert {*learning} <= {*owned} <= {id(p) for p in method.parameters()}


def test_every_field_says_what_it_is_for() -> None:
    for method in METHODS.values():
        assert all(field.description for field in method.Config.model_fields.values())
    for row in ARCHITECTURES.values():
        assert all(field.description for field in row.Config.model_fields.values())


def test_weighted_sums_and_logs_unweighted() -> None:
    loss = torch.tensor(2.0, requires_grad=True)
    term = weighted({"a": (0.5, loss), "b": (3.0, loss * 2)}, prefix="x/")
    assert term.loss.item() == 13
    assert {name: value.item() for name, value in term.logged.items()} == {"x/a": 2.0, "x/b": 4.0}


def test_frozen_restores_what_was_trainable() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    network[0].requires_grad_(False)
    inputs = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(KeyError), frozen(network):
        network(inputs).backward()
        raise KeyError
    assert inputs.grad is not None and network[1].weight.grad is None
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
