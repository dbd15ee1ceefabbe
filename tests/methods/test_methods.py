"""The contract of every method and every architecture, and each method's own terms.

What an architecture can break (gradients, odd sizes, labels that are all ignored) is tested with
AdvEnt on every architecture, and with every method on the papers' network; all other pairs build
their graphs on the meta device, which has shapes and gradients but no numbers.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from adapt.batch import IGNORED, Batch
from adapt.errors import JobError
from adapt.losses import (
    adversarial_least_squares,
    adversarial_vanilla,
    class_prior_loss,
    class_probabilities,
    cross_entropy,
    entropy_loss,
    weighted_self_information,
)
from adapt.methods import METHODS, build_method
from adapt.methods.advent import AdvEntConfig
from adapt.methods.method import Method, Term, frozen, weighted
from adapt.models import ARCHITECTURES, build_segmenter
from tests.networks import tiny_model

torch.set_num_threads(1)
NUM_CLASSES = 5
ADVERSARIAL = ("adaptsegnet", "advent")
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
    "masktwins dacs": {"name": "masktwins", "host": {"name": "dacs"}},
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
)
OTHER_PAIRS = [pair for pair in product(ARCHITECTURES, WITHOUT_NUMBERS) if pair not in PAIRS]
LABEL_PIXELS = torch.tensor([[900, 50, 50, 0, 24], [700, 200, 0, 100, 24], [10, 500, 400, 90, 24]])


def _build(
    name: str, architecture: str = "deeplab_v2", model: Any = None, **options: Any
) -> Method:
    torch.manual_seed(0)
    values = {**tiny_model(architecture), "norm": "frozen", **(model or {})}
    method = build_method({"name": name, **options}, build_segmenter(values, NUM_CLASSES))
    method.observe_source(LABEL_PIXELS)
    return method.train()


def _batch(seed: int, labelled: bool, size_hw: tuple[int, int] = (64, 64), size: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (size, *size_hw), generator=random)
    images = torch.randn(size, 3, *size_hw, generator=random)
    return Batch(images, labels if labelled else None, ("key",) * size)


def _run(method: Method, source: Batch, target: Batch | None) -> Iterator[Term]:
    """As the engine does: each term back-propagated before the next is asked for."""
    for term in method.losses(source, target):
        term.loss.backward()
        yield term


def _with_gradient(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


def _logged(terms: Iterator[Term]) -> dict[str, Tensor]:
    return {name: value for term in terms for name, value in term.logged.items()}


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Method:
    """A method on an architecture."""
    architecture, case = request.param
    return _build(architecture=architecture, **CASES[case])


@pytest.fixture(scope="module", params=CASES)
def method(request: pytest.FixtureRequest) -> Method:
    """A method on the network of the papers."""
    return _build(**CASES[request.param])


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> None:
    for name in {"method", "pair"} & set(request.fixturenames):
        request.getfixturevalue(name).zero_grad()


@pytest.mark.slow
def test_gradient_reaches_every_trainable_parameter(pair: Method) -> None:
    list(_run(pair, _batch(1, True, size=2), _batch(2, False, size=2)))
    trainable = {name for name, p in pair.named_parameters() if p.requires_grad}
    assert _with_gradient(pair) == trainable


def test_each_method_is_in_every_pair() -> None:
    """Class sizes read numbers: that method is without them where there are none."""
    assert {CASES[case]["name"] for case in (*WITHOUT_NUMBERS, "advent")} == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "case"), OTHER_PAIRS, ids=str)
def test_every_other_pair_has_a_gradient_for_every_trainable_parameter(
    architecture: str, case: str
) -> None:
    with torch.device("meta"):
        method = _build(architecture=architecture, **CASES[case])
        source, target = _batch(1, True, (33, 65), size=2), _batch(2, False, size=2)
        terms = list(_run(method, source, target))
    assert all(term.loss.shape == () for term in terms)
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert terms and not without


def test_terms_are_finite_scalars_at_any_size(pair: Method) -> None:
    for term in _run(pair, _batch(1, True, (33, 65)), _batch(2, False, (64, 64))):
        assert term.loss.shape == () and term.loss.isfinite()
        for value in term.logged.values():
            assert value.shape == () and value.isfinite() and not value.requires_grad


def test_logged_names_are_the_same_each_step(method: Method) -> None:
    steps = []
    for seed in (1, 3):
        terms = _run(method, _batch(seed, True), _batch(seed + 1, False))
        steps.append([name for term in terms for name in term.logged])
    assert steps[0] == steps[1]
    assert len(set(steps[0])) == len(steps[0])


def test_finite_where_all_source_labels_are_ignored(pair: Method) -> None:
    source = _batch(1, True)._replace(labels=torch.full((1, 64, 64), IGNORED))
    for term in _run(pair, source, _batch(2, False)):
        assert term.loss.isfinite()
    gradients = [p.grad for p in pair.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_bf16_gives_float32_losses_near_full_precision(method: Method) -> None:
    source, target = _batch(1, True), _batch(2, False)
    expected = _logged(method.losses(source, target))
    with torch.autocast("cpu", torch.bfloat16):
        found = _logged(method.losses(source, target))
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.01)


def test_adversaries_and_segmenter_are_all_that_learns(method: Method) -> None:
    parts = [method.segmenter, *method.adversaries().values()]
    owned = [id(p) for part in parts for p in part.parameters()]
    learning = [id(p) for p in method.parameters() if p.requires_grad]
    assert {*learning} <= {*owned} <= {id(p) for p in method.parameters()}


def test_source_only_needs_no_target() -> None:
    method = _build("source_only")
    assert not method.needs_target
    (term,) = method.losses(_batch(1, True), None)
    assert list(term.logged) == ["segmentation/main", "segmentation/aux"]


def test_segmentation_term_weighs_the_auxiliary_head_by_a_tenth() -> None:
    method, source = _build("source_only"), _batch(1, True)
    assert source.labels is not None
    (term,) = method.losses(source, None)
    main, auxiliary = (
        cross_entropy(logits, source.labels) for logits in method.segmenter(source.images).logits
    )
    torch.testing.assert_close(term.loss, main + 0.1 * auxiliary)
    torch.testing.assert_close(term.logged["segmentation/aux"], auxiliary)


def test_minent_terms() -> None:
    method, target = _build("minent", weight_ent=(0.5, 0.25)), _batch(2, False)
    _, term = method.losses(_batch(1, True), target)
    main, auxiliary = (
        entropy_loss(class_probabilities(logits))
        for logits in method.segmenter(target.images).logits
    )
    torch.testing.assert_close(term.loss, 0.5 * main + 0.25 * auxiliary)
    assert list(term.logged) == ["entropy/main", "entropy/aux"]


def test_minent_with_ranking_and_prior() -> None:
    options = {"ranking": 0.3, "class_prior": {"mu": 0.5, "weight": 2.0}}
    method, target = _build("minent", weight_ent=(0.5,), **options), _batch(2, False)
    _, term = method.losses(_batch(1, True), target)
    probabilities = class_probabilities(method.segmenter(target.images).logits[0])
    ratios = LABEL_PIXELS.sum(dim=0) / LABEL_PIXELS.sum()
    entropy, prior = entropy_loss(probabilities, 0.3), class_prior_loss(probabilities, ratios, 0.5)
    torch.testing.assert_close(term.loss, 0.5 * entropy + 2 * prior)
    assert list(term.logged) == ["entropy/main", "class_prior/main"]


def test_advent_with_prior_adds_it_to_the_target_s_term() -> None:
    plain, prior = _build("advent"), _build("advent", class_prior={"mu": 1.0, "weight": 3.0})
    batches = _batch(1, True), _batch(2, False)
    _, fooling, *_ = plain.losses(*batches)
    _, both, *_ = prior.losses(*batches)
    assert [name for name in both.logged if name not in fooling.logged] == ["class_prior/main"]
    torch.testing.assert_close(both.loss, fooling.loss + 3 * both.logged["class_prior/main"])


@pytest.mark.parametrize(
    "options",
    [
        {"name": "minent", "class_prior": {}},
        {"name": "advent", "class_prior": {}},
        {"name": "fcns_in_the_wild"},
    ],
)
def test_statistics_of_the_source_must_be_given(options: dict[str, Any]) -> None:
    model = {"architecture": "deeplab_v2", "encoder": "resnet18", "weights": "none"}
    method = build_method(options, build_segmenter(model, NUM_CLASSES))
    with pytest.raises(JobError, match=r"method.(class_prior|weight_sizes): .*observe_source"):
        list(method.losses(_batch(1, True), _batch(2, False)))


def test_statistics_of_the_source_are_saved() -> None:
    state = _build("advent", class_prior={}).state_dict()
    ratios = LABEL_PIXELS.sum(dim=0) / LABEL_PIXELS.sum()
    torch.testing.assert_close(state["prior.class_ratios"], ratios)


def test_features_are_what_the_discriminators_see() -> None:
    method = _build("adaptsegnet", space="features", weight_adv=(0.5, 0.25))
    target = _batch(2, False)
    _, fooling, *_ = method.losses(_batch(1, True), target)
    features = method.segmenter(target.images).features
    assert list(method.adversaries()) == ["discriminator_stage5", "discriminator_stage4"]
    networks = method.adversaries().values()
    deepest, next_one = (
        adversarial_vanilla(network(stage), 0)
        for network, stage in zip(networks, features[::-1], strict=False)
    )
    torch.testing.assert_close(fooling.loss, 0.5 * deepest + 0.25 * next_one)
    assert list(fooling.logged) == ["adversarial/stage5", "adversarial/stage4"]


def test_more_weights_than_stages_are_refused() -> None:
    with pytest.raises(JobError, match=r"method.weight_adv: .* each of 5 stages .* got 6"):
        _build("adaptsegnet", space="features", weight_adv=(0.1,) * 6)


def test_fcns_in_the_wild_confuses_on_both_domains() -> None:
    method = _build("fcns_in_the_wild", weight_confusion=0.5, weight_sizes=0.25)
    source, target = _batch(1, True), _batch(2, False)
    on_source, on_target, tell_source, tell_target = method.losses(source, target)
    (classifier,) = method.adversaries().values()

    def judged(batch: Batch, domain: int) -> Tensor:
        features = method.segmenter(batch.images).features[-1]
        return adversarial_vanilla(classifier(features), domain)

    for term, batch, name in ((on_source, source, "source"), (on_target, target, "target")):
        confused = (judged(batch, 0) + judged(batch, 1)) / 2
        torch.testing.assert_close(term.logged[f"confusion/{name}"], confused.detach())
    assert list(on_target.logged) == ["confusion/target", "sizes/main"]
    expected = 0.5 * on_target.logged["confusion/target"] + 0.25 * on_target.logged["sizes/main"]
    torch.testing.assert_close(on_target.loss.detach(), expected)
    torch.testing.assert_close(tell_source.loss, judged(source, 0))
    torch.testing.assert_close(tell_target.loss, judged(target, 1))


def test_fcns_in_the_wild_who_learns_from_which_term() -> None:
    method, learners = _build("fcns_in_the_wild"), []
    for _ in _run(method, _batch(1, True), _batch(2, False)):
        learners.append({key.partition(".")[0] for key in _with_gradient(method)})
        method.zero_grad()
    assert learners == [{"segmenter"}, {"segmenter"}, {"classifier"}, {"classifier"}]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "advant"},
            "method.name: expected a known name, got 'advant'; did you mean 'advent'",
        ),
        (
            {"name": "advent", "weight": 1},
            "method.weight: unknown key, .*did you mean 'weight_adv'",
        ),
        ({"name": "minent", "ranking": 0}, "method.ranking: expected a number > 0 .*, got 0$"),
        ({"name": "minent", "class_prior": {"mu": 2}}, "method.class_prior.mu: "),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        build_method(values, build_segmenter({"architecture": "deeplab_v2", "weights": "none"}))


@pytest.mark.parametrize(
    ("name", "options", "criterion"),
    [
        ("adaptsegnet", {}, adversarial_vanilla),
        ("adaptsegnet", {"gan": "least_squares"}, adversarial_least_squares),
        ("advent", {}, adversarial_vanilla),
    ],
)
def test_adversarial_terms(name: str, options: dict[str, str], criterion: Any) -> None:
    method = _build(name, weight_adv=(0.5, 0.25), **options)
    source, target = _batch(1, True), _batch(2, False, (64, 96))
    _, fooling, on_source, on_target = method.losses(source, target)

    def judged(batch: Batch, domain: int) -> list[Tensor]:
        maps = [class_probabilities(logits) for logits in method.segmenter(batch.images).logits]
        if name == "advent":
            maps = [weighted_self_information(head) for head in maps]
        discriminators = method.adversaries().values()
        pairs = zip(discriminators, maps, strict=True)
        return [criterion(network(head), domain) for network, head in pairs]

    main, auxiliary = judged(target, 0)
    torch.testing.assert_close(fooling.loss, 0.5 * main + 0.25 * auxiliary)
    torch.testing.assert_close(on_source.loss, sum(judged(source, 0)) / 2)
    torch.testing.assert_close(on_target.loss, sum(judged(target, 1)) / 2)
    torch.testing.assert_close(on_target.logged["discriminator_target/aux"], judged(target, 1)[1])


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_who_learns_from_which_term(name: str) -> None:
    method = _build(name)
    learners = []
    for _ in _run(method, _batch(1, True), _batch(2, False)):
        learners.append({key.partition(".")[0] for key in _with_gradient(method)})
        method.zero_grad()
    assert learners == [{"segmenter"}, {"segmenter"}, {"discriminators"}, {"discriminators"}]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_one_weight_adapts_the_main_head_alone(name: str) -> None:
    method = _build(name, weight_adv=(0.001,))
    assert list(method.adversaries()) == ["discriminator_main"]
    names = list(_logged(method.losses(_batch(1, True), _batch(2, False))))
    assert [key for key in names if key.startswith("adversarial/")] == ["adversarial/main"]
    assert list(_build(name).adversaries()) == ["discriminator_main", "discriminator_aux"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("adaptsegnet", "weight_adv"), ("advent", "weight_adv"), ("minent", "weight_ent")],
)
def test_more_weights_than_heads_are_refused(name: str, key: str) -> None:
    message = rf"method.{key}: .* each head of the model \(main\), got 2: \[0.001, 0.0002\]"
    with pytest.raises(JobError, match=message):
        _build(name, model={"aux": False})


@pytest.mark.parametrize("weights", [(), (-0.1,), (float("nan"),)])
def test_senseless_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        AdvEntConfig(weight_adv=weights)


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
