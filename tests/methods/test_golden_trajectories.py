"""Three training steps of each method against the papers' own programs, losses and weights.

Networks, methods and steps are the product's own, built from plain values; the encoder has one
bottleneck a stage. What no golden run covers (several parts a step, other settings, repeated
updates) is checked against the programs' steps written out here.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.engine.engine import Engine
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.methods import build_method
from adapt.methods.method import Method
from adapt.models import build_segmenter
from tests.golden_recipe import fill, image, initial, label, program_key

torch.set_num_threads(1)
DTYPES = {"f32": torch.float32, "f64": torch.float64}
TOLERANCE = {"f32": 2e-5, "f64": 1e-11}
FIGURES = ("sum", "abssum", "first8")
STEPS, SCHEDULE_STEPS = 3, 250_000
SOURCE_HW, TARGET_HW = (65, 129), (64, 128)
MODEL = {"architecture": "deeplab_v2", "encoder": "caffe_resnet14", "weights": "none"}
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


class Run(NamedTuple):
    """One golden run: how to configure the product for it, and how the program names things."""

    method: dict[str, Any]
    model: dict[str, Any]
    losses: Mapping[str, tuple[tuple[str, float], ...]]
    heads: dict[str, str]
    adversaries: dict[str, str]
    convs: tuple[str, ...]


_ADAPTSEGNET_NAMES = (
    {"main": "2", "aux": "1"},
    {"discriminator_main": "D2", "discriminator_aux": "D1"},
    ("conv1", "conv2", "conv3", "conv4", "classifier"),
)
_ADVENT_NAMES = (
    {"main": "main", "aux": "aux"},
    {"discriminator_main": "d_main", "discriminator_aux": "d_aux"},
    ("0", "2", "4", "6", "8"),
)
RUNS = {
    "adaptsegnet_multi": Run(
        {"name": "adaptsegnet"}, {"aspp_branches": 2}, ADAPTSEGNET_LOSSES, *_ADAPTSEGNET_NAMES
    ),
    "adaptsegnet_single": Run(
        {"name": "adaptsegnet", "weight_adv": [0.001, 0.0]},
        {"aspp_branches": 2, "weight_aux": 0.0},
        ADAPTSEGNET_LOSSES,
        *_ADAPTSEGNET_NAMES,
    ),
    "advent_advent": Run({"name": "advent"}, {}, ADVENT_LOSSES, *_ADVENT_NAMES),
    "advent_minent": Run({"name": "minent"}, {}, MINENT_LOSSES, *_ADVENT_NAMES),
}
OTHER_RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adaptsegnet_least_squares": (
        {"name": "adaptsegnet", "gan": "least_squares", "weight_adv": [0.01, 0.0]},
        {"aspp_branches": 2, "weight_aux": 0.0},
    ),
    "source_only": ({"name": "source_only"}, {"aspp_branches": 2, "weight_aux": 0.0}),
    "advent_single_level": ({"name": "advent", "weight_adv": [0.001]}, {"aux": False}),
}


def _engine(
    method_values: dict[str, Any],
    model_values: dict[str, Any],
    run: Run = RUNS["adaptsegnet_multi"],
    precision: str = "f64",
    accumulate: int = 1,
    multiplicity: Literal["none", "official"] = "none",
) -> Engine:
    """The product, from plain values, with the golden recipe's initial values."""
    method = build_method(method_values, build_segmenter({**MODEL, **model_values}))
    fill(method.segmenter, "G")
    for name, adversary in method.adversaries().items():
        state = adversary.state_dict().items()
        adversary.load_state_dict(
            {key: initial(_adversary_key(name, key, run), value) for key, value in state}
        )
    method.to(DTYPES[precision])
    train = TrainConfig(steps=STEPS, accumulate=accumulate, accumulate_mean="parts")
    optim = SGDConfig(schedule_steps=SCHEDULE_STEPS, sgd_multiplicity=multiplicity)
    return Engine(method, train, optim, torch.device("cpu"))


def _adversary_key(name: str, key: str, run: Run) -> str:
    _, index, kind = key.split(".")
    return f"{run.adversaries[name]}/{run.convs[int(index)]}.{kind}"


def _weights(method: Method, run: Run) -> Iterator[tuple[str, Tensor]]:
    """`NETWORK/KEY` in the program and our tensor, for every network."""
    for key, value in method.segmenter.state_dict().items():
        yield f"G/{program_key(key)}", value
    for name, adversary in method.adversaries().items():
        for key, value in adversary.state_dict().items():
            yield _adversary_key(name, key, run), value


def _batches(steps: range, precision: str = "f64") -> tuple[Batch, Batch]:
    """The golden inputs of these steps, as one batch of each domain."""
    keys, dtype = tuple(map(str, steps)), DTYPES[precision]
    source = torch.cat([image(f"source_image/{step}", SOURCE_HW) for step in steps])
    labels = torch.cat([label(f"source_label/{step}", SOURCE_HW) for step in steps])
    target = torch.cat([image(f"target_image/{step}", TARGET_HW) for step in steps])
    return Batch(source.to(dtype), labels, keys), Batch(target.to(dtype), None, keys)


def _train(engine: Engine, precision: str = "f64") -> Iterator[dict[str, float]]:
    """Unweighted losses by name after each step."""
    for step in range(STEPS):
        logged = engine.step(*_batches(range(step, step + 1), precision))
        yield {name: value.item() for name, value in logged.items()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", RUNS)
def test_three_steps_are_the_programs(shared_dir: Path, name: str, precision: str) -> None:
    run, tolerance = RUNS[name], TOLERANCE[precision]
    engine = _engine(run.method, run.model, run, precision)
    with np.load(shared_dir / "golden" / "train.npz") as file:
        prefix = f"{name}/{precision}/"
        golden = {key[len(prefix) :]: file[key] for key in file if key.startswith(prefix)}
    compared = set()
    for step, logged in enumerate(_train(engine, precision)):
        for loss, parts in run.losses.items():
            for head, head_name in run.heads.items():
                found = sum(share * logged[part.format(head)] for part, share in parts)
                expected = golden[f"loss/{loss.format(head_name)}"][step]
                assert found == pytest.approx(expected, rel=tolerance), (step, loss, head)
                compared.add(f"loss/{loss.format(head_name)}")
        for entry, value in _weights(engine.method, run):
            if f"{entry}/sum" in golden:
                figures = {figure: golden[f"{entry}/{figure}"][step] for figure in FIGURES}
                _compare(value, figures, tolerance, entry)
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


@pytest.mark.slow
def test_other_settings_train_and_go_their_own_ways() -> None:
    ends: dict[str, Tensor] = {}
    settings = {name: (run.method, run.model) for name, run in RUNS.items()}
    for name, (method, model) in {**settings, **OTHER_RUNS}.items():
        engine = _engine(method, model, precision="f32")
        for logged in _train(engine, "f32"):
            assert logged and all(np.isfinite(value) for value in logged.values()), name
        state = engine.method.segmenter.state_dict()
        assert all(value.isfinite().all() for value in state.values()), name
        ends[name] = state["decoder.heads.0.branches.0.weight"]
    for (one, a), (other, b) in combinations(ends.items(), 2):
        assert not torch.equal(a, b), (one, other)


def _papers_gradients(method: Method, source: Batch, target: Batch) -> dict[str, float]:
    """AdaptSegNet's iteration with iter_size = batch size, as its program writes it, up to the
    gradients -> its logged losses by our names.
    """
    network, losses, heads = method.segmenter, dict[str, float](), ("main", "aux")
    judges = [method.adversaries()[f"discriminator_{head}"] for head in heads]
    iter_size = len(source.keys)
    assert source.labels is not None

    def backward(name: str, weights: tuple[float, ...], values: list[Tensor]) -> None:
        total = torch.zeros((), dtype=values[0].dtype)
        for head, weight, value in zip(heads, weights, values, strict=True):
            key = f"{name}/{head}"
            losses[key] = losses.get(key, 0.0) + value.item() / iter_size
            total = total + weight * value / iter_size
        total.backward()

    def judge(logits: Tensor, discriminator: nn.Module, domain: int) -> Tensor:
        out = discriminator(F.softmax(logits, dim=1))
        return F.binary_cross_entropy_with_logits(out, torch.full_like(out, domain))

    for part in range(iter_size):
        images, labels = source.images[part : part + 1], source.labels[part : part + 1]
        on_source = network(images).logits
        seg = [F.cross_entropy(logits, labels, ignore_index=255) for logits in on_source]
        backward("segmentation", (1.0, 0.1), seg)
        on_target = network(target.images[part : part + 1]).logits
        for discriminator in judges:
            discriminator.requires_grad_(False)
        adv = [judge(logits, d, 0) for logits, d in zip(on_target, judges, strict=True)]
        backward("adversarial", (0.001, 0.0002), adv)
        for discriminator in judges:
            discriminator.requires_grad_(True)
        for name, outputs, domain in (("source", on_source, 0), ("target", on_target, 1)):
            pairs = zip(outputs, judges, strict=True)
            told = [judge(logits.detach(), d, domain) for logits, d in pairs]
            backward(f"discriminator_{name}", (0.5, 0.5), told)
    return losses


@pytest.mark.slow
def test_parts_of_a_step_are_the_programs_iter_size() -> None:
    """Gradients of two halves are summed; statistics see source 1, target 1, source 2, target 2."""
    run, (source, target) = RUNS["adaptsegnet_multi"], _batches(range(2))
    engine = _engine(run.method, run.model, run, accumulate=2)
    papers = _engine(run.method, run.model, run).method.train()
    logged = engine.step(source, target)
    losses = _papers_gradients(papers, source, target)
    assert {name: value.item() for name, value in logged.items()} == pytest.approx(losses)
    for (name, ours), theirs in zip(
        engine.method.named_parameters(), papers.parameters(), strict=True
    ):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-15, msg=name)
    for (name, buffer), other in zip(engine.method.named_buffers(), papers.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-12, atol=1e-15, msg=name)


@pytest.mark.slow
def test_official_multiplicity_repeats_updates_as_the_programs_do() -> None:
    """In a first step the programs' momentum buffers start empty for every listing."""
    engine = _engine({"name": "minent"}, {}, multiplicity="official")
    encoder = engine.method.segmenter.encoder
    parameters = dict[str, Tensor](encoder.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    engine.step(*_batches(range(1)))
    listed = {"conv1.weight": 1, "layer3.0.conv2.weight": 3, "layer4.0.downsample.0.weight": 4}
    for name, times in listed.items():
        parameter = parameters[name]
        expected = before[name]
        assert parameter.grad is not None
        for _ in range(times):
            expected = expected - 2.5e-4 * (parameter.grad + 5e-4 * expected)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-13, atol=1e-16, msg=name)
