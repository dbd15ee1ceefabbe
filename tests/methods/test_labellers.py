"""The rules of CBST and IntraDA for pseudo-labels: against plain code, and made by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.engine.engine import Engine, TrainConfig
from adapt.engine.sgd import SGDConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.methods.class_balanced_self_training import ClassBalanced, ClassBalancedConfig
from adapt.methods.intra_da import EasyImages, EasyImagesConfig
from adapt.methods.labeller import Facts
from tests.networks import varied_network

CLASSES, HW = 5, (37, 41)
BIN = 2**-9


def random_logits(count: int, scale: float = 4.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(7)
    return [torch.randn(CLASSES, *HW, generator=random).double() * scale for _ in range(count)]


def observed(
    logits: list[Tensor], round_number: int = 0, **config: float
) -> tuple[ClassBalanced, Facts]:
    labeller = ClassBalanced(
        ClassBalancedConfig(**config), len(logits[0]), len(logits), round_number
    )
    for sample, one in enumerate(logits):
        labeller.observe(sample, one)
    return labeller, labeller.facts()


def plain_thresholds(logits: list[Tensor], portion: float) -> list[float]:
    """As the paper has it: confidences of each class sorted, the one at rank p N_c; 1 for none."""
    probabilities = [one.softmax(dim=0).numpy() for one in logits]
    found = []
    for train_id in range(len(logits[0])):
        confidences = np.concatenate(
            [one.max(axis=0)[one.argmax(axis=0) == train_id] for one in probabilities]
        )
        rank = math.floor(portion * len(confidences))
        found.append(float(np.sort(confidences)[::-1][rank - 1]) if rank else 1.0)
    return found


def plain_labels(logits: Tensor, thresholds: list[float]) -> Tensor:
    """argmax over c of p_c / threshold_c, pixel by pixel; none below 1."""
    probabilities, found = logits.softmax(dim=0), torch.full(logits.shape[1:], IGNORED)
    for row in range(logits.shape[1]):
        for column in range(logits.shape[2]):
            ratios = [
                float(p) / t for p, t in zip(probabilities[:, row, column], thresholds, strict=True)
            ]
            best = max(range(len(ratios)), key=ratios.__getitem__)
            if ratios[best] >= 1:
                found[row, column] = best
    return found


@pytest.mark.parametrize(("scale", "portion"), [(1.0, 0.2), (4.0, 0.35), (40.0, 0.5)])
def test_thresholds_are_the_paper_s_to_a_bin(scale: float, portion: float) -> None:
    """Also where most probabilities are 1 but for a rounding error, as of trained networks."""
    logits = random_logits(3, scale)
    _, facts = observed(logits, portion=portion)
    for k, plain in zip(facts["k"], plain_thresholds(logits, portion), strict=True):
        assert -math.log(plain) <= k * (1 + 1e-6) and k <= -math.log(plain) * (1 + 2 * BIN) + 1e-12


def test_each_class_is_labelled_by_its_portion() -> None:
    logits = random_logits(4)
    labeller, facts = observed(logits, portion=0.25)
    for train_id in range(CLASSES):
        own = [one.argmax(dim=0) == train_id for one in logits]
        kept = [labeller.labels(facts, one) == train_id for one in logits]
        pixels = sum(int(one.sum()) for one in own)
        labelled = sum(int((a & b).sum()) for a, b in zip(own, kept, strict=True))
        assert facts["pixels"][train_id] == pixels
        assert math.floor(0.25 * pixels) <= labelled <= 0.26 * pixels


def test_labels_are_the_paper_s() -> None:
    logits = random_logits(2)
    labeller, facts = observed(logits, portion=0.3)
    thresholds = [math.exp(-k) for k in facts["k"]]
    found = labeller.labels(facts, logits[0])
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), plain_labels(logits[0], thresholds))
    assert 0.2 < float((found == IGNORED).float().mean()) < 0.8


def test_a_class_below_the_most_probable_wins_by_its_lower_threshold() -> None:
    """Of class 1 the network is never surer than 0.4: 0.45 is much for it, 0.5 little for 0."""
    pixels = torch.tensor([[0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.5, 0.45, 0.05]])
    labeller, facts = observed([pixels[:2].T[:, None].log()], portion=1.0)
    assert labeller.labels(facts, pixels.T[:, None].log()).tolist() == [[0, 1, 1]]


def test_a_class_of_which_the_network_is_less_sure_is_labelled_as_well() -> None:
    """A row of an easy class, 0.99 to 0.90 sure, and one of a hard class, 0.70 to 0.61 sure: the
    surer half of each is labelled, also of the hard class, which one threshold would drop."""
    sure = torch.stack([torch.linspace(0.99, 0.90, 10), torch.linspace(0.70, 0.61, 10)])
    logits = torch.stack([sure, 1 - sure]).log()
    logits[:, 1] = logits[:, 1].flip(0)
    labeller, facts = observed([logits], portion=0.5)
    expected = torch.full((2, 10), IGNORED, dtype=torch.uint8)
    expected[0, :5], expected[1, :5] = 0, 1
    assert torch.equal(labeller.labels(facts, logits)[:, :5], expected[:, :5])
    assert not bool((labeller.labels(facts, logits)[0, 5:] == 0).any())
    assert labeller.shown(facts)["threshold"] == pytest.approx([0.95, 0.66], abs=1e-3)


def test_a_class_of_too_few_pixels_gets_no_label() -> None:
    logits = torch.zeros(3, 2, 4)
    logits[0] = 5
    logits[:, 0, 0] = torch.tensor([0.0, 5.0, 0.0])  # one pixel, of which a fifth is none
    labeller, facts = observed([logits], portion=0.2)
    assert facts["pixels"] == [7, 1, 0] and list(facts["k"][1:]) == [0, 0]
    assert set(labeller.labels(facts, logits).flatten().tolist()) == {0, IGNORED}


def test_a_probability_of_one_is_labelled() -> None:
    logits = torch.full((2, 1, 3), -300.0)
    logits[1] = 300
    labeller, facts = observed([logits], portion=0.5)
    assert labeller.labels(facts, logits).flatten().tolist() == [1, 1, 1]


def test_later_rounds_take_more_up_to_the_largest_portion() -> None:
    config = ClassBalancedConfig()
    portions = [ClassBalanced(config, 2, 1, number).portion for number in (0, 1, 2, 6, 9)]
    assert portions == pytest.approx([0.2, 0.25, 0.3, 0.5, 0.5])
    assert ClassBalanced(ClassBalancedConfig(portion=0.8), 2, 1, 3).portion == 0.8


def plain_entropy(logits: Tensor) -> float:
    p = logits.softmax(dim=0)
    return float(-(p * p.log2()).sum(dim=0).mean() / math.log2(len(logits)))


def test_images_are_ranked_by_their_mean_entropy() -> None:
    logits = [
        one * scale for one, scale in zip(random_logits(6), (3, 0.1, 2, 0.3, 1, 0.2), strict=True)
    ]
    labeller = EasyImages(EasyImagesConfig(), CLASSES, 6)
    for sample, one in enumerate(logits):
        labeller.observe(sample, one)
    facts = labeller.facts()
    assert facts["entropies"] == pytest.approx([plain_entropy(one) for one in logits], rel=1e-9)
    parts = labeller.parts(facts)
    assert parts["source"].samples == (0, 2, 3, 4), "int(0.67 x 6) of them, in packed order"
    assert parts["target"].samples == (1, 5)
    assert torch.equal(labeller.labels(facts, logits[1]).long(), logits[1].argmax(dim=0))


def test_of_equal_entropies_the_first_packed_are_easy() -> None:
    labeller = EasyImages(EasyImagesConfig(easy_share=0.5), CLASSES, 4)
    assert labeller.parts({"entropies": [0.5] * 4})["source"].samples == (0, 1)


@pytest.mark.parametrize(("share", "num_samples"), [(0.67, 1), (0.1, 5)])
def test_easy_or_hard_images_that_are_none_are_refused(share: float, num_samples: int) -> None:
    labeller = EasyImages(EasyImagesConfig(easy_share=share), CLASSES, num_samples)
    with pytest.raises(JobError, match=f"easy and hard images, got 0 easy ones of {num_samples}"):
        labeller.parts({"entropies": [0.5] * num_samples})


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 32, 48, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, 32, 48), generator=random)
    labels[:, : 3 + seed % 5] = IGNORED
    return Batch(images, labels, ("a", "b"))


def test_three_steps_of_cbst_are_the_paper_s() -> None:
    """Means over labelled pixels of source and target, one convolution, SGD with momentum."""
    config = {"name": "class_balanced_self_training", "weight_target": 0.7}
    method = build_method(config, varied_network(CLASSES).double()).double()
    optim = SGDConfig(lr=0.1, head_lr_factor=1, weight_decay=1e-3, momentum=0.9, power=0)
    engine = Engine(method, TrainConfig(steps=3), optim, torch.device("cpu"))
    weight = method.segmenter.decoder.classifier.weight
    plain, velocity = weight.detach().clone().requires_grad_(), torch.zeros_like(weight)
    for number in range(3):
        source, target = batch(number), batch(100 + number)
        logged = engine.step(source, target)
        losses = []
        for domain in (source, target):
            coarse = F.conv2d(domain.images - 0.5, plain, stride=2)
            logits = F.interpolate(coarse, (32, 48), mode="bilinear", align_corners=True)
            losses.append(F.cross_entropy(logits, domain.labels, ignore_index=IGNORED))
        (gradient,) = torch.autograd.grad(losses[0] + 0.7 * losses[1], plain)
        velocity = 0.9 * velocity + gradient + 1e-3 * plain.detach()
        with torch.no_grad():
            plain -= 0.1 * velocity
        torch.testing.assert_close(weight, plain, rtol=1e-12, atol=1e-12)
        found = [logged[name].item() for name in ("segmentation/main", "pseudo_labels/main")]
        assert found == pytest.approx([loss.item() for loss in losses], rel=1e-12)


def test_intra_da_is_adv_ent_on_easy_and_hard_images() -> None:
    logged = []
    for name in ("advent", "intra_da"):
        config = {"name": name, "weight_adv": [0.01], "discriminator_width": 8}
        torch.manual_seed(0)
        method = build_method(config, varied_network(CLASSES).double()).double()
        terms = method.losses(batch(1), batch(2)._replace(labels=None))
        logged.append({key: float(value) for term in terms for key, value in term.logged.items()})
    assert logged[0] == logged[1] and "adversarial/main" in logged[0]
