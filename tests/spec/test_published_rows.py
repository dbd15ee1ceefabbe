"""Job specs of published rows: what they reproduce, and the settings of the papers' programs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapt.engine.adamw import AdamWConfig
from adapt.engine.sgd import SGDConfig
from adapt.methods.dacs import DACSConfig
from adapt.methods.daformer import DAFormerConfig
from adapt.methods.fda import FDAConfig
from adapt.methods.mic import MICConfig
from adapt.models.decoders.daformer_head import DAFormerHeadConfig
from adapt.models.decoders.deeplab_v2 import DeepLabV2Config
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import load_spec
from adapt.stream.augment import AugmentConfig
from adapt.trainer.networks import check_networks

ROOT = Path(__file__).resolve().parents[2]
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
STUFF = {"road", "sidewalk", "building", "wall", "fence", "pole", "vegetation", "terrain", "sky"}
PUBLISHED = sorted(
    path
    for task in ("gta5_to_cityscapes", "synthia_to_cityscapes")
    for path in (ROOT / "job_specs" / task).glob("*.yaml")
)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_specs_of_published_rows(path: Path) -> None:
    job, text = load_spec(path), path.read_text()
    assert text.startswith("# yaml-language-server: $schema=../schema.json\n")
    published = re.search(r"^# Published: (.+?) mIoU on Cityscapes val.* \((.+)\)\.$", text, re.M)
    assert published is not None
    (row,) = re.findall(rf"^.*{path.parent.name}/{path.name}\).*$", METHODS_PAGE, re.M)
    assert f"| {published[1]} |" in row
    sizes = {"gta5": (720, 1280), "synthia": (760, 1280), "cityscapes": (512, 1024)}
    for section in (job.source, job.target, job.validation):
        assert section is None or section.size_hw == sizes[section.dataset]
    check_networks(job)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_of_published_rows(path: Path) -> None:
    RECIPES.get(path.stem, recipe_of_the_adversarial_programs)(load_spec(path))


def recipe_of_the_adversarial_programs(job: JobSpec) -> None:
    model: Any = job.model
    assert model.encoder in ("caffe_resnet101", "caffe_vgg16")
    assert model.weights_uri is not None or model.start_uri is not None
    assert (job.optim.lr, job.optim.name, job.stream.sampling) == (2.5e-4, "sgd", "papers")
    assert (job.source.batch_size, job.evaluate.every_steps) in ((1, 2000), (1, 5000))
    assert job.optim.schedule_steps in (250_000, 90_000)
    vgg = model.encoder == "caffe_vgg16"
    assert (job.optim.head_lr_factor, job.optim.sgd_multiplicity) == (
        (1, "none") if vgg else (10, "legacy")
    )


def recipe_of_fda(job: JobSpec) -> None:
    """As its program's options and README have it: AdaptSegNet's network with all branches."""
    _caffe_resnet(job, branches=4)
    assert (job.stream.sampling, job.source.batch_size) == ("papers", 1)
    assert (job.optim.schedule_steps, job.train.steps) == (150_000, 100_000)
    assert job.method == FDAConfig(beta=0.01, weight_ent=0.005, eta=2.0)


def recipe_of_dacs(job: JobSpec) -> None:
    """As its program's configUDA.json and transformsgpu.py have it."""
    _caffe_resnet(job, branches=2)
    assert (job.stream.sampling, job.optim.schedule_steps) == ("windows", 250_000)
    for domain in (job.source, job.target):
        assert domain is not None and domain.batch_size == 2
        assert domain.augment == AugmentConfig(crop_hw=(512, 512))
    assert isinstance(job.method, DACSConfig)
    method = job.method
    assert (method.teacher.alpha, method.augmentation.jitter) == (0.99, 0.25)
    assert (method.pseudo_labels.threshold, method.pseudo_labels.quality) == (0.968, "batch")


def recipe_of_daformer(job: JobSpec) -> None:
    """As MIC's program has it for DeepLabV2 and ResNet-101 (experiment 81)."""
    model, optim = job.model, job.optim
    assert isinstance(model, DeepLabV2Config) and isinstance(optim, AdamWConfig)
    assert (model.encoder, model.norm, model.output_stride) == ("resnet101c.gluon_in1k", "train", 8)
    assert (model.aspp_branches, model.aux, optim.decay_norms) == (2, False, True)
    _trains_as_daformer(job)


def recipe_of_daformer_on_mit(job: JobSpec) -> None:
    """As DAFormer's program has it for its own network, all of which but its weights are ours."""
    model, optim = job.model, job.optim
    assert isinstance(model, DAFormerHeadConfig) and isinstance(optim, AdamWConfig)
    assert (model.encoder, model.width, model.aux) == ("mit_b5", 256, False)
    assert model.weights_uri is not None and optim.decay_norms == "head"
    _trains_as_daformer(job)


def _trains_as_daformer(job: JobSpec) -> None:
    """Of DAFormer's program, and of MIC's over it."""
    optim, stream, target = job.optim, job.stream, job.target
    assert isinstance(optim, AdamWConfig)
    assert (optim.lr, optim.head_lr_factor, optim.weight_decay) == (6e-5, 10, 0.01)
    assert (optim.power, optim.decay_biases) == (1.0, True)
    assert (optim.warmup, optim.warmup_steps, optim.warmup_ratio) == ("daformer", 1500, 1e-6)
    assert (job.train.steps, job.evaluate.every_steps) == (40_000, 4000)
    assert (job.evaluate.protocol, job.evaluate.weights) == ("last", "student")
    assert (job.source.batch_size, target is not None and target.batch_size) == (2, 2)
    crop = AugmentConfig(crop_hw=(512, 512), flip=0.5)
    assert target is not None and target.augment == crop
    assert job.source.augment == crop.model_copy(update={"largest_class_share": 0.75})
    rare = (stream.rare_class_temperature, stream.rare_class_min_pixels)
    assert (stream.sampling, *rare) == ("rare_classes", 0.01, 3000)
    method = getattr(job.method, "host", job.method)
    assert isinstance(method, DAFormerConfig) and method.teacher.alpha == 0.999
    margins_px = [round(512 * share) for share in method.pseudo_labels.margins]
    assert margins_px == [15, 120, 0, 0]
    assert method.feature_distance is not None and method.feature_distance.weight == 0.005
    named = [job.classes.names[one] for one in method.feature_distance.classes or ()]
    assert named == [name for name in job.classes.names if name not in STUFF]


def recipe_of_cbst(job: JobSpec) -> None:
    """As the program that its authors released with CRST has it (crst_seg.py, cbst.sh)."""
    model, optim, method = job.model, job.optim, job.method
    assert isinstance(model, DeepLabV2Config) and isinstance(optim, SGDConfig)
    assert (model.encoder, model.norm, method.rounds) == ("caffe_resnet101", "frozen_affine", 3)
    assert (optim.lr, optim.power, optim.head_lr_factor) == (5e-5, 0, 10)
    assert (optim.weight_decay, optim.momentum) == (5e-4, 0.9)
    labels = method.pseudo_labels
    assert (labels.portion, labels.portion_step, labels.largest_portion) == (0.2, 0.05, 0.5)
    assert labels.start and labels.checkpoint == "best" and job.evaluate.flip
    crops = AugmentConfig(crop_hw=(512, 1024), scale=(0.5, 1.5), flip=0.5)
    assert job.target is not None and (job.source.augment, job.target.augment) == (crops, crops)
    assert job.train.steps == method.rounds * 2 * 2975, "two epochs of Cityscapes a round"
    before = load_spec(ROOT / "job_specs" / f"{job.source.dataset}_to_cityscapes/source_only.yaml")
    assert job.labelling_uri() == f"{before.checkpoint.uri}/{before.name}"
    assert model == before.model.model_copy(update={"weights_uri": None})


def recipe_of_intra_da(job: JobSpec) -> None:
    """AdvEnt's, between easy and hard images (entropy.py: lambda 0.67)."""
    recipe_of_the_adversarial_programs(job)
    before = load_spec(ROOT / "job_specs" / f"{job.source.dataset}_to_cityscapes/advent.yaml")
    assert job.labelling_uri() == f"{before.checkpoint.uri}/{before.name}"
    assert (job.model, job.optim, job.train) == (before.model, before.optim, before.train)
    assert job.method.weight_adv == before.method.weight_adv
    assert (job.method.pseudo_labels.easy_share, job.method.pseudo_labels.start) == (0.67, False)


def recipe_of_mic(job: JobSpec) -> None:
    recipe_of_daformer(job)
    _masks_as_mic(job)


def recipe_of_mic_on_mit(job: JobSpec) -> None:
    recipe_of_daformer_on_mit(job)
    _masks_as_mic(job)


def _masks_as_mic(job: JobSpec) -> None:
    """On crops of 512 pixels, whatever the network."""
    assert isinstance(job.method, MICConfig)
    method = job.method
    assert (method.ratio, method.block_px, method.weight) == (0.7, 32, 1.0)


def _caffe_resnet(job: JobSpec, branches: int) -> None:
    """The network and the optimizer that AdaptSegNet's heirs share."""
    model, optim = job.model, job.optim
    assert isinstance(model, DeepLabV2Config) and isinstance(optim, SGDConfig)
    assert (model.encoder, model.aspp_branches, model.aux) == ("caffe_resnet101", branches, False)
    assert model.weights_uri is not None and model.norm == "frozen_affine"
    assert (optim.lr, optim.weight_decay, optim.power) == (2.5e-4, 5e-4, 0.9)
    assert (optim.head_lr_factor, optim.sgd_multiplicity) == (10, "legacy")


RECIPES: dict[str, Callable[[JobSpec], None]] = {
    "fda": recipe_of_fda,
    "dacs": recipe_of_dacs,
    "daformer": recipe_of_daformer,
    "daformer_mit_b5": recipe_of_daformer_on_mit,
    "mic": recipe_of_mic,
    "mic_mit_b5": recipe_of_mic_on_mit,
    "class_balanced_self_training": recipe_of_cbst,
    "intra_da": recipe_of_intra_da,
}


@pytest.mark.parametrize(
    ("name", "steps", "branches", "weights"),
    [
        ("source_only", 150_000, 2, (0.0, 0.0)),
        ("adaptsegnet_single", 150_000, 2, (0.001,)),
        ("adaptsegnet_multi", 150_000, 2, (0.001, 0.0002)),
        ("adaptsegnet_least_squares", 150_000, 2, (0.01,)),
        ("advent", 120_001, 4, (0.001, 0.0002)),
        ("minent", 120_000, 4, (0.001, 0.0002)),
    ],
)
def test_settings_of_the_programs(
    name: str, steps: int, branches: int, weights: tuple[float, ...]
) -> None:
    job = load_spec(ROOT / "job_specs" / "gta5_to_cityscapes" / f"{name}.yaml")
    model: Any = job.model
    found = getattr(job.method, "weight_adv", getattr(job.method, "weight_ent", None))
    assert (job.train.steps, model.aspp_branches, found) == (steps, branches, weights)
