"""DACS, DAFormer, MIC, MaskTwins and FDA: their terms, and three steps against plain code."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.batch import IGNORED, Batch
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError
from adapt.methods import build_method
from adapt.methods.draws import Draws
from adapt.methods.method import Method
from adapt.methods.mic import HOSTS, MIC
from adapt.methods.pseudo_labels import PseudoLabelConfig
from adapt.methods.teacher import TeacherConfig
from adapt.models import build_segmenter
from adapt.models.segmenter import Segmenter
from tests.networks import tiny_model, varied_network

CLASSES, HW = 4, (32, 48)
STILL = {"jitter_chance": 0, "blur_chance": 0}
LR, MOMENTUM, DECAY = 0.1, 0.9, 1e-3


def batch(seed: int, labelled: bool = True, size: int = 2) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(size, 3, *HW, generator=random, dtype=torch.float64)
    labels = torch.randint(CLASSES, (size, *HW), generator=random)
    labels[:, :3] = IGNORED
    keys = tuple(f"{seed}/{row}" for row in range(size))
    return Batch(images, labels if labelled else None, keys)


def engine(method: dict[str, Any]) -> Engine:
    built = build_method(method, varied_network(CLASSES).double())
    optim = SGDConfig(lr=LR, head_lr_factor=1, weight_decay=DECAY, momentum=MOMENTUM, power=0)
    return Engine(built.double(), TrainConfig(steps=3), optim, torch.device("cpu"))


def steps() -> list[tuple[Batch, Batch]]:
    return [(batch(step), batch(100 + step, labelled=False)) for step in range(3)]


class PlainDACS:
    """Three steps of DACS on one convolution, in loops over images and classes, from the paper."""

    def __init__(self, weight: Tensor, alpha: float, threshold: float) -> None:
        self.weight = weight.clone().requires_grad_()
        self.teacher, self.velocity = weight.clone(), None
        self.alpha, self.threshold = alpha, threshold

    @staticmethod
    def logits(images: Tensor, weight: Tensor) -> Tensor:
        coarse = F.conv2d(images - 0.5, weight, stride=2)
        return F.interpolate(coarse, size=HW, mode="bilinear", align_corners=True)

    def pasted(self, source: Batch, target: Batch, draws: Draws) -> Tensor:
        assert source.labels is not None
        pasted = torch.zeros(source.labels.shape, dtype=torch.bool)
        for row, (own, other) in enumerate(zip(source.keys, target.keys, strict=True)):
            drawn = draws.of_sample("class mix", f"{own} {other}").random(CLASSES)
            present = [c for c in source.labels[row].unique().tolist() if c != IGNORED]
            first = sorted(present, key=lambda c: drawn[c])[: (len(present) + 1) // 2]
            for train_id in first:
                pasted[row] |= source.labels[row] == train_id
        return pasted

    def step(self, source: Batch, target: Batch, draws: Draws, number: int) -> None:
        assert source.labels is not None
        loss = F.cross_entropy(
            self.logits(source.images, self.weight), source.labels, ignore_index=IGNORED
        )
        confidence, pseudo = self.logits(target.images, self.teacher).softmax(dim=1).max(dim=1)
        quality = (confidence >= self.threshold).double().mean()
        pasted = self.pasted(source, target, draws)
        images = torch.where(pasted[:, None], source.images, target.images)
        labels = torch.where(pasted, source.labels, pseudo)
        weights = torch.where(pasted, torch.ones(()).double(), quality)
        each = F.cross_entropy(self.logits(images, self.weight), labels, reduction="none")
        loss = loss + (weights * each).sum() / each.numel()
        (gradient,) = torch.autograd.grad(loss, self.weight)
        gradient = gradient + DECAY * self.weight.detach()
        self.velocity = gradient if self.velocity is None else MOMENTUM * self.velocity + gradient
        with torch.no_grad():
            self.weight -= LR * self.velocity
            share = min(1 - 1 / (number + 1), self.alpha)
            self.teacher = share * self.teacher + (1 - share) * self.weight


def test_three_steps_of_dacs_are_the_paper_s() -> None:
    one = engine({"name": "dacs", "augmentation": STILL, "pseudo_labels": {"threshold": 0.3}})
    weight = one.method.segmenter.decoder.classifier.weight
    plain = PlainDACS(weight.detach(), alpha=0.99, threshold=0.3)
    for number, (source, target) in enumerate(steps()):
        one.step(source, target)
        plain.step(source, target, one.method.draws, number + 1)
        torch.testing.assert_close(weight, plain.weight, rtol=1e-12, atol=1e-12)
    teacher = one.method.teacher.network.decoder.classifier.weight
    torch.testing.assert_close(teacher, plain.teacher, rtol=1e-12, atol=1e-12)


def terms(method: Method, source: Batch, target: Batch) -> list[dict[str, float]]:
    method.start_step(Draws(5))
    return [{k: v.item() for k, v in t.logged.items()} for t in method.losses(source, target)]


def test_terms_of_each_method_by_name() -> None:
    names = {
        name: [list(term) for term in terms(engine({"name": name}).method, batch(1), batch(2))]
        for name in ("fda", "dacs", "daformer", "mic", "masktwins")
    }
    mixed = [["segmentation/main"], ["mix/main"]]
    former = [["segmentation/main", "feature_distance"], ["mix/main"]]
    assert names == {
        "fda": [["segmentation/main"], ["entropy/main"]],
        "dacs": mixed,
        "daformer": former,
        "mic": [*former, ["masked/main"]],
        "masktwins": [*former, ["masked/main", "complement/main", "agreement/main"]],
    }


def test_pixels_of_which_no_teacher_is_sure_weigh_nothing() -> None:
    unsure = engine({"name": "dacs", "pseudo_labels": {"threshold": 1.0}}).method
    source = batch(1)._replace(labels=torch.full((2, *HW), IGNORED))  # nothing to paste either
    assert terms(unsure, source, batch(2))[1]["mix/main"] == 0


def painted(seed: int, brightness: float) -> Batch:
    """Blocks of two colours, each the colour of its class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (2, 8, 12), generator=random)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    colours = torch.tensor([[1.0, 0.2, 0.2], [0.2, 0.2, 1.0]], dtype=torch.float64)
    images = colours[labels].movedim(-1, 1) * brightness
    return Batch(images, labels, (f"{seed}/0", f"{seed}/1"))


def certainty_on_the_target(method: dict[str, Any]) -> float:
    """Mean probability of the right class on dark images, after 40 steps on bright labelled ones
    and dark unlabelled ones."""
    one, shown = engine(method), painted(900, 0.5)
    for seed in range(40):
        one.step(painted(seed, 1.0), painted(500 + seed, 0.5)._replace(labels=None))
    assert shown.labels is not None
    found = one.method.segmenter(shown.images).logits[0].softmax(dim=1)
    assert (found.argmax(dim=1) == shown.labels).double().mean() > 0.9
    return found.gather(1, shown.labels[:, None]).mean().item()


def test_right_pseudo_labels_make_the_network_surer_of_the_target() -> None:
    dacs = {"name": "dacs", "augmentation": STILL, "pseudo_labels": {"threshold": 0.4}}
    without = {**dacs, "pseudo_labels": {"threshold": 1.0}}  # no teacher is as sure as this
    alone = certainty_on_the_target({"name": "source_only"})
    assert certainty_on_the_target(dacs) > alone + 0.05
    assert certainty_on_the_target(dacs) > certainty_on_the_target(without) + 0.02


@pytest.mark.parametrize("host", HOSTS)
def test_masks_are_added_to_any_method(host: str) -> None:
    method = engine(
        {"name": "mic", "host": {"name": host, **_one_head(host)}, "block_px": 8}
    ).method
    alone = engine({"name": host, **_one_head(host)}).method
    method.load_state_dict(_with_host(alone), strict=False)
    found = terms(method, batch(1), batch(2))
    assert found[:-1] == terms(alone, batch(1), batch(2))
    assert list(found[-1]) == ["masked/main"] and found[-1]["masked/main"] >= 0
    assert set(method.adversaries()) == set(alone.adversaries())


def _one_head(host: str) -> dict[str, Any]:
    if host == "vfm_uda":
        return {"masks": None}
    key = {"adaptsegnet": "weight_adv", "advent": "weight_adv", "minent": "weight_ent"}.get(host)
    return {} if key is None else {key: [0.001]}


def _with_host(alone: Method) -> dict[str, Tensor]:
    """The state of a method as that of one which is its host."""
    return {
        key if key.startswith("segmenter.") else f"host.{key}": value
        for key, value in alone.state_dict().items()
    }


def test_the_checkpoint_has_the_segmenter_once() -> None:
    keys = engine({"name": "mic", "host": {"name": "dacs"}}).method.state_dict()
    assert [key for key in keys if key.endswith("classifier.weight")] == [
        "segmenter.decoder.classifier.weight",
        "host.teacher.network.decoder.classifier.weight",
    ]


def test_the_masked_term_is_the_teacher_s_labels_of_the_whole_image() -> None:
    method = engine({"name": "mic", "host": {"name": "source_only"}, "augmentation": STILL}).method
    source, target = batch(1), batch(2)
    masked = terms(method, source, target)[-1]["masked/main"]
    assert isinstance(method, MIC)
    pseudo = method.target_labels(target)
    from adapt.methods.block_masks import block_mask

    hidden = target.images * block_mask(target, 64, 0.7, Draws(5))
    each = F.cross_entropy(method.segmenter(hidden).logits[0], pseudo.labels, reduction="none")
    assert masked == pytest.approx((pseudo.weights * each).mean().item(), rel=1e-12)


def test_twins_hide_what_the_other_shows() -> None:
    options = {"host": {"name": "source_only"}, "augmentation": STILL, "block_px": 8}
    method = engine({"name": "masktwins", **options}).method
    seen: list[Tensor] = []
    method.segmenter.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
    target = batch(2)
    _, term = terms(method, batch(1), target)
    _, one, other = seen
    torch.testing.assert_close(one + other, target.images)
    assert one.any() and other.any() and term["agreement/main"] > 0


def test_a_host_s_own_teacher_labels_a_batch_once() -> None:
    method = engine({"name": "mic", "host": {"name": "dacs"}}).method
    calls: list[Any] = []
    teacher: Segmenter = method.host["teacher"].network
    teacher.register_forward_hook(lambda *_: calls.append(1))
    terms(method, batch(1), batch(2))
    assert len(calls) == 1


@pytest.mark.parametrize("key", ["teacher", "pseudo_labels"])
def test_a_second_teacher_is_refused(key: str) -> None:
    message = f"method.{key}: expected null .*, got a section.* write it as method.host.{key}"
    with pytest.raises(JobError, match=message):
        engine({"name": "mic", "host": {"name": "dacs"}, key: {}})


def test_a_resolved_spec_shows_the_teacher_that_is_used() -> None:
    own = engine({"name": "mic", "host": {"name": "source_only"}}).method.config
    assert own.teacher == TeacherConfig() and own.pseudo_labels == PseudoLabelConfig()
    assert engine({"name": "mic", "host": {"name": "dacs"}}).method.config.teacher is None


def test_discriminators_of_the_host_start_from_its_weights() -> None:
    config = engine(
        {"name": "mic", "host": {"name": "advent", **_one_head("advent")}}
    ).method.config
    assert config.discriminator_uris == {} and config.host.name == "advent"


def test_a_refused_step_leaves_the_teacher_where_it_was() -> None:
    one = engine({"name": "daformer"})
    one.step(*steps()[0])
    before = {key: value.clone() for key, value in one.method.state_dict().items()}
    source, target = steps()[1]
    target.images[0, 0, 0, 0] = torch.nan
    one.step(source, target)
    assert len(one.bad_steps) == 1
    for key, value in one.method.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", ["dacs", "daformer", "mic", "masktwins", "vfm_uda"])
def test_a_resumed_job_continues_with_its_teacher(name: str) -> None:
    whole, first, second = (engine({"name": name}) for _ in range(3))
    for source, target in steps():
        whole.step(source, target)
    first.step(*steps()[0])
    second.load_state_dict(first.state_dict())
    for source, target in steps()[1:]:
        second.step(source, target)
    for key, value in whole.method.state_dict().items():
        torch.testing.assert_close(second.method.state_dict()[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.slow
def test_no_step_waits_for_the_device() -> None:
    """On the meta device every number that Python reads is an error."""
    with torch.device("meta"):
        for name in ("dacs", "daformer", "mic", "masktwins", "vfm_uda", "fda"):
            method = build_method({"name": name}, build_segmenter(tiny_model("bisenet"), CLASSES))
            source = Batch(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64).long(), ("a", "b"))
            assert len(list(method.train().losses(source, source))) >= 2
