"""Each method's own terms, against the functions that they are made of."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from adapt.batch import Batch
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
from adapt.methods import build_method
from adapt.methods.advent import AdvEntConfig
from adapt.models import build_segmenter
from tests.built_methods import (
    LABEL_PIXELS,
    NUM_CLASSES,
    back_propagated,
    built_method,
    logged,
    random_batch,
    with_gradient,
)

torch.set_num_threads(1)
ADVERSARIAL = ("adaptsegnet", "advent")


def test_source_only_needs_no_target() -> None:
    method = built_method("source_only")
    assert not method.needs_target
    (term,) = method.losses(random_batch(1, True), None)
    assert list(term.logged) == ["segmentation/main", "segmentation/aux"]


def test_segmentation_term_weighs_the_auxiliary_head_by_a_tenth() -> None:
    method, source = built_method("source_only"), random_batch(1, True)
    assert source.labels is not None
    (term,) = method.losses(source, None)
    main, auxiliary = (
        cross_entropy(logits, source.labels) for logits in method.segmenter(source.images).logits
    )
    torch.testing.assert_close(term.loss, main + 0.1 * auxiliary)
    torch.testing.assert_close(term.logged["segmentation/aux"], auxiliary)


def test_minent_terms() -> None:
    method, target = built_method("minent", weight_ent=(0.5, 0.25)), random_batch(2, False)
    _, term = method.losses(random_batch(1, True), target)
    main, auxiliary = (
        entropy_loss(class_probabilities(logits))
        for logits in method.segmenter(target.images).logits
    )
    torch.testing.assert_close(term.loss, 0.5 * main + 0.25 * auxiliary)
    assert list(term.logged) == ["entropy/main", "entropy/aux"]


def test_minent_with_ranking_and_prior() -> None:
    options = {"ranking": 0.3, "class_prior": {"mu": 0.5, "weight": 2.0}}
    method, target = built_method("minent", weight_ent=(0.5,), **options), random_batch(2, False)
    _, term = method.losses(random_batch(1, True), target)
    probabilities = class_probabilities(method.segmenter(target.images).logits[0])
    ratios = LABEL_PIXELS.sum(dim=0) / LABEL_PIXELS.sum()
    entropy, prior = entropy_loss(probabilities, 0.3), class_prior_loss(probabilities, ratios, 0.5)
    torch.testing.assert_close(term.loss, 0.5 * entropy + 2 * prior)
    assert list(term.logged) == ["entropy/main", "class_prior/main"]


def test_advent_with_prior_adds_it_to_the_target_s_term() -> None:
    plain, prior = (
        built_method("advent"),
        built_method("advent", class_prior={"mu": 1.0, "weight": 3.0}),
    )
    batches = random_batch(1, True), random_batch(2, False)
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
        list(method.losses(random_batch(1, True), random_batch(2, False)))


def test_statistics_of_the_source_are_saved() -> None:
    state = built_method("advent", class_prior={}).state_dict()
    ratios = LABEL_PIXELS.sum(dim=0) / LABEL_PIXELS.sum()
    torch.testing.assert_close(state["prior.class_ratios"], ratios)


def test_features_are_what_the_discriminators_see() -> None:
    method = built_method("adaptsegnet", space="features", weight_adv=(0.5, 0.25))
    target = random_batch(2, False)
    _, fooling, *_ = method.losses(random_batch(1, True), target)
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
        built_method("adaptsegnet", space="features", weight_adv=(0.1,) * 6)


def test_fcns_in_the_wild_confuses_on_both_domains() -> None:
    method = built_method("fcns_in_the_wild", weight_confusion=0.5, weight_sizes=0.25)
    source, target = random_batch(1, True), random_batch(2, False)
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
    method, learners = built_method("fcns_in_the_wild"), []
    for _ in back_propagated(method, random_batch(1, True), random_batch(2, False)):
        learners.append({key.partition(".")[0] for key in with_gradient(method)})
        method.zero_grad()
    assert learners == [{"segmenter"}, {"segmenter"}, {"classifier"}, {"classifier"}]


@pytest.mark.slow
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
        ({"name": "minent", "ranking": 0}, "method.ranking: expected a number > 0 .*, got 0"),
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
    method = built_method(name, weight_adv=(0.5, 0.25), **options)
    source, target = random_batch(1, True), random_batch(2, False, (64, 96))
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
    method = built_method(name)
    learners = []
    for _ in back_propagated(method, random_batch(1, True), random_batch(2, False)):
        learners.append({key.partition(".")[0] for key in with_gradient(method)})
        method.zero_grad()
    assert learners == [{"segmenter"}, {"segmenter"}, {"discriminators"}, {"discriminators"}]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_one_weight_adapts_the_main_head_alone(name: str) -> None:
    method = built_method(name, weight_adv=(0.001,))
    assert list(method.adversaries()) == ["discriminator_main"]
    names = list(logged(method.losses(random_batch(1, True), random_batch(2, False))))
    assert [key for key in names if key.startswith("adversarial/")] == ["adversarial/main"]
    assert list(built_method(name).adversaries()) == ["discriminator_main", "discriminator_aux"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("adaptsegnet", "weight_adv"), ("advent", "weight_adv"), ("minent", "weight_ent")],
)
def test_more_weights_than_heads_are_refused(name: str, key: str) -> None:
    message = rf"method.{key}: .* each head of the model \(main\), got 2: \[0.001, 0.0002\]"
    with pytest.raises(JobError, match=message):
        built_method(name, model={"aux": False})


@pytest.mark.parametrize("weights", [(), (-0.1,), (float("nan"),)])
def test_senseless_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        AdvEntConfig(weight_adv=weights)
