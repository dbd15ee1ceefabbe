"""The job spec's reference page, docs/job_spec.md, and the schema for editors, both rendered from
the models.

`make docs` writes them; a test fails where they are older than the code. A new key, method or
architecture appears by itself: its text is the `description` of its field, the docstring of its
section and its module's first paragraph.
"""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

from pydantic import BaseModel

from adapt.checkpoint.config import CheckpointConfig
from adapt.data.label_maps import LABEL_SPACES, SegmentationClass
from adapt.engine.optim import OPTIMIZERS
from adapt.engine.segmenter_optimizer import OptimConfig
from adapt.engine.train_config import TrainConfig
from adapt.evaluation.protocol import EarlyStopConfig, EvaluateConfig, ValidationConfig
from adapt.methods import METHODS
from adapt.methods.class_prior import ClassPriorConfig
from adapt.methods.distillation import DistillationConfig
from adapt.methods.feature_distance import FeatureDistanceConfig
from adapt.methods.moving_average import MovingAverageConfig
from adapt.methods.pseudo_labels import PseudoLabelConfig
from adapt.methods.strong_augmentation import StrongAugmentationConfig
from adapt.methods.teacher import TeacherConfig
from adapt.methods.vfm_uda import MasksConfig
from adapt.models import ARCHITECTURES
from adapt.models.adapters.config import AdapterConfig
from adapt.models.config import SegmenterConfig
from adapt.models.pixel_loss import LossConfig
from adapt.report.config import ReportConfig
from adapt.spec.job_spec import JobSpec, json_schema
from adapt.spec.same_job import MAY_CHANGE
from adapt.spec.schema_words import rows_of
from adapt.stream.augment import AugmentConfig
from adapt.stream.config import DomainConfig, StreamConfig, TargetConfig
from adapt.tracking.config import TrackingConfig
from storage.config import StoreConfig
from storage.stores import STORES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "job_spec.md"
SCHEMA = ROOT / "job_specs" / "schema.json"
EXAMPLE = ROOT / "job_specs" / "gta5_to_cityscapes" / "advent.yaml"


class Part(NamedTuple):
    """A table of the page: heading with its level, text above the table, the keys of `model`.

    Keys that `inherited` has too, with the same text, are left out.
    """

    heading: str
    text: str
    model: type[BaseModel]
    inherited: type[BaseModel] | None = None


def reference() -> str:
    """The whole page as Markdown."""
    example = EXAMPLE.relative_to(ROOT).as_posix()
    opening = _OPENING.format(
        example=example,
        yaml=EXAMPLE.read_text(encoding="utf-8").strip(),
        may_change=", ".join(f"`{key}`" for key in sorted(MAY_CHANGE)),
    )
    return "\n\n".join([opening.strip(), *(_rendered(part) for part in parts())]) + "\n"


def parts() -> Iterator[Part]:
    """Every section of a job spec, in the order of the page, a part for each row of the tables."""
    yield Part("## Top level", "The sections of a job.", JobSpec)
    yield Part("## `classes`", _classes(), SegmentationClass)
    lists = "A list of such datasets with weights may stand in its place"
    text = (
        f"{_paragraph(DomainConfig)} {lists}: [methods.md](methods.md#several-sources-and-targets)."
    )
    yield Part("## `source`, `target`", text, DomainConfig)
    text = f"{_paragraph(TargetConfig)} Beside the keys above:"
    yield Part("### `target` alone", text, TargetConfig, DomainConfig)
    yield Part("### `source.augment`, `target.augment`", _paragraph(AugmentConfig), AugmentConfig)
    yield Part("## `validation`", _paragraph(ValidationConfig), ValidationConfig)
    yield Part("## `model`", _paragraph(SegmenterConfig), SegmenterConfig)
    yield Part("### `model.adapters`", _paragraph(AdapterConfig), AdapterConfig)
    for name, row in ARCHITECTURES.items():
        text = f"{row.description()}. Beside the keys of every model:"
        yield Part(f"### `model.architecture: {name}`", text, row.Config, SegmenterConfig)
    yield from _methods()
    yield Part("## `loss`", _paragraph(LossConfig), LossConfig)
    yield Part("## `optim`", _paragraph(OptimConfig), OptimConfig)
    for name, optimizer in OPTIMIZERS.items():
        text = f"{_paragraph(inspect.getmodule(optimizer))} Beside the keys above:"
        yield Part(f"### `optim.name: {name}`", text, optimizer.Config, OptimConfig)
    for key, section in _PLAIN_SECTIONS.items():
        yield Part(f"{'###' if '.' in key else '##'} `{key}`", _paragraph(section), section)
    schemes = ", ".join(f"`{scheme}`" for scheme in sorted(STORES))
    text = (
        f"{_paragraph(StoreConfig)} `KEY` is a scheme, or how URIs begin (`s3://bucket/prefix`): "
    )
    text += f"the longest that fits applies. Schemes: {schemes}. See [stores.md](stores.md)."
    yield Part("## `stores.KEY`", text, StoreConfig)


_PLAIN_SECTIONS: Mapping[str, type[BaseModel]] = {
    "distillation": DistillationConfig,
    "train": TrainConfig,
    "train.ema": MovingAverageConfig,
    "stream": StreamConfig,
    "evaluate": EvaluateConfig,
    "evaluate.early_stop": EarlyStopConfig,
    "checkpoint": CheckpointConfig,
    "tracking": TrackingConfig,
    "report": ReportConfig,
}


_PARTS_OF_METHODS: Mapping[str, type[BaseModel]] = {
    "class_prior": ClassPriorConfig,
    "teacher": TeacherConfig,
    "pseudo_labels": PseudoLabelConfig,
    "augmentation": StrongAugmentationConfig,
    "feature_distance": FeatureDistanceConfig,
    "masks": MasksConfig,
}


def _methods() -> Iterator[Part]:
    for number, (name, row) in enumerate(METHODS.items()):
        above = "## `method`\n\nOne of the following, by `name`.\n\n" if number == 0 else ""
        needs = "" if row.needs_target else " Needs no `target`."
        text = f"{_paragraph(inspect.getmodule(row))}{needs}"
        yield Part(f"{above}### `method.name: {name}`", text, row.Config)
        if row.labeller is not None:
            stage: Any = row.Config.model_fields["pseudo_labels"].annotation
            yield Part(f"#### `method.pseudo_labels` of {name}", _paragraph(stage), stage)
        if (
            "teacher" in row.Config.model_fields
            and row.Config.model_fields["teacher"].is_required()
        ):
            network: Any = row.Config.model_fields["teacher"].annotation
            yield Part(f"#### `method.teacher` of {name}", _paragraph(network), network)
    for key, section in _PARTS_OF_METHODS.items():
        yield Part(f"### `method.{key}`", _paragraph(section), section)


def _classes() -> str:
    """The label spaces, and how to write a custom one."""
    rows = [
        f"| `{name}` | {space.num_classes} | {', '.join(f'`{one}`' for one in space.datasets)} |"
        for name, space in LABEL_SPACES.items()
    ]
    table = "\n".join(["| label space | classes | maps the ids of |", "| --- | --- | --- |", *rows])
    words = (
        "Either one of these names, or a list of classes whose order gives the train ids "
        "([datasets.md](datasets.md#label-spaces) has an example). "
        "Ids that no class names are ignored."
    )
    return f"{words}\n\n{table}\n\nA class has:"


def _paragraph(owner: Any) -> str:
    """The first paragraph of a docstring on one line, ended by a full stop."""
    first = (inspect.getdoc(owner) or "").split("\n\n")[0]
    line = " ".join(first.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _rendered(part: Part) -> str:
    head = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    table = "\n".join([*head, *rows_of(part.model, part.inherited)])
    return f"{part.heading}\n\n{part.text}\n\n{table}"


_OPENING = dedent("""\
    <!-- Written by `make docs` from the models in adapt/; do not edit. -->
    # Job spec reference

    One YAML file is one job, complete: no includes, no inheritance, no interpolation. This one is
    [{example}](../{example}):

    ```yaml
    {yaml}
    ```

    **Reading.** Types are strict, as in JSON: `steps: "500"`, an unknown key and a duplicate key
    are errors. All mistakes are reported together, each by its key path, with the value that was
    typed and its likely meaning. `2e-4` is a number, `off` is a text. Anchors and aliases are read;
    tags, merges (`<<`) and files of more than 1 MB are refused. `segadapt check SPEC --spec`
    validates a spec and prints it with its defaults, without touching data or GPU; without `--spec`
    it checks [everything else](check.md) too.

    **Overrides.** `--set KEY.PATH=VALUE`, as often as you like, changes single keys of a spec for
    `run`, `check` and `evaluate`. The value is read as YAML and passes the same checks; places in
    lists are numbers, also in the classes of a label space that the spec names:

    ```sh
    segadapt check SPEC --spec --set train.steps=500 --set source.size_hw=[360,640]
    segadapt check SPEC --spec --set classes.0.name=street
    ```

    **Resolved spec.** The spec with its overrides and all defaults filled in is saved as
    `spec.yaml` beside every checkpoint and in MLflow. It is itself a valid job spec. A run that is
    resumed must have the same one, but for keys that end in `.uri` or `.labelled_keys_uri`,
    `train.steps` where `optim.schedule_steps` is set, `distillation.weights_uri`,
    `model.weights_uri` where the file is known by `model.weights_sha256` or
    `checkpoint.trained_only`, and
    {may_change}.

    **Secrets** never stand in a spec: `stores` names the environment variables that hold them.

    **Editors.** Write `# yaml-language-server: $schema=PATH/TO/job_specs/schema.json` into a spec's
    first line, and an editor with a YAML language server completes keys and marks mistakes.
    `segadapt schema` prints the same schema.
    """)


def main() -> None:
    """Write the page and the schema."""
    PAGE.write_text(reference(), encoding="utf-8")
    SCHEMA.write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
