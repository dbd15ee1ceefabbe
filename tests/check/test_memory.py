"""The predicted memory of a step against the peak of real steps, counted in the same way."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from adapt.batch import Batch
from adapt.check import memory
from adapt.check.memory import (
    MARGIN_BYTES,
    LiveStorages,
    Peak,
    batch_hw,
    predicted_bytes,
    step_peak,
)
from adapt.engine.engine import Engine
from adapt.errors import JobError
from adapt.methods import METHODS, build_method
from adapt.models import ARCHITECTURES, build_segmenter
from adapt.ranks import local_part
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec, parse_spec
from adapt.stream.config import DomainConfig
from adapt.stream.domains import Part
from tests.conftest import tiny_values
from tests.networks import IN_A_JOB, TEACHER, tiny_model
from tests.test_ranks import on_ranks
from tests.tiers import one_in

SPECS = Path(__file__).resolve().parents[2] / "job_specs"
LARGE_HW = (192, 256)
"""Large enough for activations to outweigh what optimizers need for a moment."""
PIXELS = torch.tensor([[40, 30, 20, 10], [10, 0, 50, 40]])
CASES = [
    ("deeplab_v2", "advent", {"accumulate": 2, "clip_norm": 1.0}),
    ("bisenet", "source_only", {"ema": {"alpha": 0.9}}),
    pytest.param("unet", "minent", {}, marks=pytest.mark.nightly),
    ("pspnet", "fcns_in_the_wild", {"precision": "bf16"}),
    ("deeplab_v2", "mic", {"accumulate": 2}),
    ("deeplab_v2", "class_balanced_self_training", {"accumulate": 2}),
    ("deeplab_v2", "advent", {"activation_checkpointing": "blocks"}),
    ("deeplab_v2", "daformer", {"precision": "bf16", "frozen_weights": "bf16"}),
]


def job_of(
    architecture: str, method: str, size_hw: tuple[int, int] = LARGE_HW, **train: Any
) -> JobSpec:
    values = tiny_values("data", "runs")
    values["model"] = tiny_model(architecture, "resnet18")
    values["method"] = {"name": method, **IN_A_JOB.get(method, {})}
    values["train"] |= train
    for domain in ("source", "target"):
        values[domain] = {**values[domain], "size_hw": list(size_hw)}
    return parse_spec(values, "tiny")


def real_peak(job: JobSpec, num_ranks: int = 1) -> Peak:
    """The peak of real steps of one of several ranks on random images."""

    def engine() -> Engine:
        method = build_method(job.method, build_segmenter(job.model, job.classes.num_classes))
        method.observe_source(PIXELS)
        return Engine(method, job.train, job.optim, torch.device("cpu"))

    def batch(domain: DomainConfig, labelled: bool) -> Batch:
        size = domain.batch_size // num_ranks
        size_hw = batch_hw([Part("source", "source", domain, True, 1.0)], {})
        labels = torch.randint(0, 4, (size, *size_hw)) if labelled else None
        return Batch(torch.randn(size, 3, *size_hw), labels, ("x",) * size)

    def batches() -> tuple[Batch, Batch | None]:
        method = METHODS[job.method.name]
        target = job.target if method.needs_target else None
        labelled = method.labels_target()
        return batch(job.source, True), None if target is None else batch(target, labelled)

    return step_peak(engine, batches)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "method", "train"), CASES)
def test_the_prediction_is_the_peak_of_a_real_step(
    architecture: str, method: str, train: dict[str, Any]
) -> None:
    job = job_of(architecture, method, **train)
    predicted, found = predicted_bytes(job, 1), real_peak(job)
    assert predicted.total == pytest.approx(found.total, rel=0.01)
    assert predicted == pytest.approx(found, rel=0.02, abs=100_000)


@pytest.mark.slow
class WithoutGloo(LiveStorages):
    """Does not count the copy of what it reduces that gloo makes inside, and NCCL does not: a
    storage that is split before anything was seen to make it."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.split.Tensor:
            storage = local_part(args[0]).untyped_storage()
            if storage._cdata not in self._here:
                return function(*args, **(kwargs or {}))
        return super().__torch_dispatch__(function, types, args, kwargs)


def sharded_peak(_rank: int, num_ranks: int, rounded: bool) -> Any:
    memory.LiveStorages = WithoutGloo  # type: ignore[misc]
    return tuple(real_peak(sharded_job(rounded), num_ranks))


def sharded_job(rounded: bool = False) -> JobSpec:
    if rounded:
        types = {"precision": "bf16", "frozen_weights": "bf16"}
        return job_of("deeplab_v2", "daformer", parallel="fsdp2", **types)
    return job_of("deeplab_v2", "advent", parallel="fsdp2")


@pytest.mark.slow
def test_the_part_of_a_rank_is_predicted(tmp_path: Path) -> None:
    predicted = predicted_bytes(sharded_job(), 2)
    assert not dist.is_initialized()
    for found in on_ranks(2, tmp_path, sharded_peak, False):
        assert predicted == pytest.approx(Peak(*found), rel=0.02, abs=100_000)
    whole = predicted_bytes(job_of("deeplab_v2", "advent"), 2)
    assert predicted.parameters < 0.7 * whole.parameters, "discriminators are whole"
    assert predicted_bytes(sharded_job(), 1) == predicted_bytes(job_of("deeplab_v2", "advent"), 1)


@pytest.mark.slow
def test_the_part_of_a_rank_whose_frozen_weights_are_bf16_is_predicted(tmp_path: Path) -> None:
    """With images channels last the prediction has one bf16 copy of the largest layer more than the
    real step; it is not known why."""
    predicted = predicted_bytes(sharded_job(rounded=True), 2)
    for found in on_ranks(2, tmp_path, sharded_peak, True):
        real = Peak(*found)
        assert predicted[:3] == pytest.approx(real[:3], rel=0.02, abs=100_000)
        assert real.total - 100_000 <= predicted.total <= 1.03 * real.total


@pytest.mark.slow
def test_the_parts_of_a_teacher_and_its_student_are_predicted() -> None:
    values = job_of("pspnet", "source_only").resolved()
    values["method"] = {"name": "distil", "teacher": {"model": TEACHER, "uri": "trained"}}
    values["distillation"] = {"encoder": "test_resnet", "weights": "none"}
    whole, parts = (
        predicted_bytes(job_of_values(values, parallel), 2) for parallel in ("average", "fsdp2")
    )
    assert parts.parameters < 0.7 * whole.parameters
    assert parts.optimizer < 0.7 * whole.optimizer


def job_of_values(values: dict[str, Any], parallel: str) -> JobSpec:
    return parse_spec({**values, "train": {**values["train"], "parallel": parallel}}, "tiny")


@pytest.mark.slow
def test_easy_images_have_the_size_of_the_target() -> None:
    """IntraDA reads no image of the source, whatever their size."""
    expected = predicted_bytes(job_of("deeplab_v2", "intra_da", (64, 96)), 1)
    values = tiny_values("data", "runs")
    values["model"] = tiny_model("deeplab_v2", "resnet18")
    values["method"] = {"name": "intra_da", **IN_A_JOB["intra_da"]}
    values["source"] = {**values["source"], "size_hw": [512, 768]}
    values["target"] = {**values["target"], "size_hw": [64, 96]}
    assert predicted_bytes(parse_spec(values, "tiny"), 1) == expected
    del values["target"]["size_hw"]
    sizes = {"source": (512, 768), "target": (64, 96)}
    assert predicted_bytes(parse_spec(values, "tiny"), 1, sizes) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", one_in(3, range(len(ARCHITECTURES))))
def test_every_network_and_method_is_predicted(number: int) -> None:
    names = list(METHODS)
    job = job_of(list(ARCHITECTURES)[number], names[number % len(names)], (64, 96))
    assert predicted_bytes(job, 1).total == pytest.approx(real_peak(job).total, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoders"), [("dacs", 2), ("daformer", 3), ("mic", 3)])
def test_teachers_and_first_encoders_are_counted(name: str, encoders: int) -> None:
    """DAFormer, the default host of masks, has the first encoder beside student and teacher, which
    hold what does not learn together."""
    job = job_of("deeplab_v2", name, (32, 48))
    segmenter = build_segmenter(job.model, job.classes.num_classes)
    encoder = _bytes(segmenter.encoder)
    expected = 2 * (_bytes(segmenter) - encoder) + encoders * encoder - _fixed_bytes(segmenter)
    parameters = predicted_bytes(job, 1).parameters
    assert parameters == pytest.approx(expected, abs=100), "classes that count are a buffer"


@pytest.mark.slow
def test_a_moving_average_is_counted_beside_network_and_teacher() -> None:
    segmenter = build_segmenter(job_of("bisenet", "dacs").model, 4)
    average = _bytes(segmenter) - _fixed_bytes(segmenter)
    for name in ("source_only", "dacs"):
        without, beside = (
            predicted_bytes(job_of("bisenet", name, (32, 48), **train), 1).parameters
            for train in ({}, {"ema": {}})
        )
        assert beside == pytest.approx(without + average, abs=100)


def _bytes(network: nn.Module) -> int:
    return sum(t.nbytes for t in (*network.parameters(), *network.buffers()))


def _fixed_bytes(network: nn.Module) -> int:
    return sum(one.nbytes for one in network.parameters() if not one.requires_grad)


@pytest.mark.slow
def test_the_papers_step_is_predicted_without_its_memory() -> None:
    job = load_spec(SPECS / "gta5_to_cityscapes" / "advent.yaml")
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = predicted_bytes(job, 1)
    assert 6e9 < peak.total < peak.needed < 16e9, "the papers' cards have 11 and 16 GB"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 1_000_000


@pytest.mark.slow
def test_ranks_accumulation_and_synchronised_norms_are_counted() -> None:
    def activations(num_ranks: int, **train: Any) -> int:
        job = job_of("bisenet", "source_only", (512, 768), **train)
        return predicted_bytes(job, num_ranks).activations

    whole, halved = activations(1), activations(2)
    assert halved < 0.6 * whole
    assert activations(1, accumulate=2) == pytest.approx(halved, rel=0.1)
    assert activations(2, sync_batch_norm=True) > 1.1 * halved


@pytest.mark.slow
def test_blocks_that_compute_again_keep_less() -> None:
    def peak(**train: Any) -> Peak:
        return predicted_bytes(job_of("bisenet", "source_only", (256, 384), **train), 1)

    kept, again = peak(), peak(activation_checkpointing="blocks")
    assert again.activations < 0.8 * kept.activations
    assert again[:3] == kept[:3]


def test_sizes_come_from_the_crop_then_the_spec_then_the_shards() -> None:
    domain = {"dataset": "d", "uri": "u"}
    crop = {"augment": {"crop_hw": [8, 9]}, "size_hw": [4, 5]}
    packed = {"source": (2, 3)}

    def size(**more: Any) -> tuple[int, int]:
        config = DomainConfig.from_values({**domain, **more}, "source")
        return batch_hw([Part("source", "source", config, True, 1.0)], packed)

    assert [size(**crop), size(size_hw=[4, 5]), size()] == [(8, 9), (4, 5), (2, 3)]
    with pytest.raises(JobError, match=r"target.size_hw: expected a size, by which the memory"):
        config = DomainConfig.from_values(domain, "target")
        batch_hw([Part("target", "target", config, False, 1.0)], packed)


def test_the_larger_images_of_a_domain_count() -> None:
    small, large = (
        DomainConfig.from_values({"dataset": "d", "uri": "u", "size_hw": size}, "source")
        for size in ([10, 90], [30, 40])
    )
    parts = [
        Part("source", "source", small, True, 0.5),
        Part("labelled target", "target", large, True, 0.5),
    ]
    assert batch_hw(parts, {}) == batch_hw(parts[::-1], {}) == (30, 40)


def test_the_peak_says_what_was_alive_then() -> None:
    with LiveStorages() as live:
        kept = torch.zeros(1000)
        passing = torch.zeros(3000)
        view = passing[:10]
        del passing, view
        later = torch.zeros(2000)
        live.mark({"parameters": [kept], "optimizer": [later]})
    peak = live.peak()
    assert peak == Peak(parameters=4000, activations=12_000)
    assert peak.total == 16_000
    assert peak.needed == MARGIN_BYTES + 17_600
    assert LiveStorages().peak() == Peak()
