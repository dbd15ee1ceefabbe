"""How a job is evaluated: what and when, and which checkpoint counts.

The papers differ: ADVENT and DACS report the best snapshot by the labels of the split that they
report on, DAFormer and MIC the last one. Tables compare only under one protocol.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from adapt.config.validation import Mistake
from adapt.data.packed.packed_split import SplitConfig
from adapt.evaluation.inference import InferenceConfig

LabelFree = Literal[
    "information_maximisation",
    "nuclear_norm",
    "correlation",
    "mean_entropy",
    "soft_neighbourhood_density",
    "flip_consistency",
    "colour_consistency",
    "teacher_agreement",
]
"""The rows of `LABEL_FREE_SCORES`."""

STUDENT, EMA, TEACHER = "student", "ema", "teacher"
"""The network that learns, its moving average, and a larger network that teaches it."""


class Protocol(NamedTuple):
    """A row of `PROTOCOLS`.

    The key of `evaluate` that names its score; whether that is counted on labels; and whether the
    latest counts instead of the highest.
    """

    score_key: str
    needs_labels: bool = True
    latest: bool = False

    def rank(self, step: int, score: float) -> float:
        """Of two checkpoints the one with the higher rank counts."""
        return step if self.latest else score


PROTOCOLS = {
    "best": Protocol("select_by"),
    "last": Protocol("select_by", latest=True),
    "best_label_free": Protocol("label_free", needs_labels=False),
}
"""By the spec's `evaluate.protocol`."""


class ValidationConfig(SplitConfig):
    """The labelled split that checkpoints are scored on; with `evaluate.protocol: best_label_free`
    it needs no labels."""

    split: str = Field("val", description="Name of the split.")


class EvaluateConfig(InferenceConfig):
    """When and how to evaluate, and how to choose the best checkpoint."""

    every_steps: int = Field(
        2000, ge=1, description="Steps between two evaluations (ADVENT's number)."
    )
    subsets: tuple[Literal["synthia16", "synthia13"], ...] = Field(
        (),
        description="Means over fewer classes to report beside, from the same confusion matrix: "
        "the papers' 16 and 13 classes of SYNTHIA.",
    )
    protocol: Literal["best", "last", "best_label_free"] = Field(
        "best",
        description="The checkpoint that counts: that is marked as the best, delivered and "
        "registered. best: the highest select_by, by the validation split's labels (ADVENT, "
        "DACS); last: the last one (DAFormer, MIC); best_label_free: the highest label_free "
        "score of predictions for the validation split, whose labels are not needed.",
    )
    select_by: Literal["miou", "pixel_accuracy", "miou_synthia16", "miou_synthia13"] = Field(
        "miou",
        description="The score whose highest value marks the best checkpoint; a subset's must be "
        "among subsets.",
    )
    label_free: LabelFree = Field(
        "information_maximisation",
        description="The score of best_label_free. information_maximisation: entropy of the mean "
        "prediction less the mean entropy of predictions, over ln K; the others give each "
        "predicted class the same weight: nuclear_norm of the predictions, correlation of classes "
        "(Corr-C), mean_entropy (over ln K; low is better), soft_neighbourhood_density (SND), and "
        "agreement of classes, as mIoU, with the mirrored image's (flip_consistency), with those "
        "under other colours (colour_consistency), with the moving average's (teacher_agreement).",
    )
    log_label_free: tuple[LabelFree, ...] = Field(
        (), description="Scores without labels to log at each evaluation, under any protocol."
    )
    ema: bool = Field(
        False,
        description="Also evaluate the moving average of the network, the method's teacher or "
        "`train.ema`, and save its weights beside the student's as ema.safetensors.",
    )
    weights: Literal["student", "ema"] = Field(
        "student",
        description="The network of that checkpoint that counts, whose weights are "
        "weights.safetensors. ema: the moving average; the student's are student.safetensors.",
    )
    pictures: int = Field(
        4, ge=0, description="Validation images drawn with truth, prediction, entropy."
    )

    @model_validator(mode="after")
    def _selects_what_is_reported(self) -> "EvaluateConfig":
        subset = self.select_by.removeprefix("miou_")
        if subset != self.select_by and subset not in self.subsets:
            raise Mistake(
                f"select_by: expected a reported score, got {self.select_by!r} without "
                f"{subset!r} in evaluate.subsets",
                fix="add it there",
            )
        return self

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that are evaluated and saved, the student first."""
        return (STUDENT, EMA) if self.ema or self.weights == EMA else (STUDENT,)

    @property
    def needs_labels(self) -> bool:
        """True where the checkpoint that counts is chosen by labels."""
        return PROTOCOLS[self.protocol].needs_labels

    @property
    def score(self) -> str:
        """The score by which the checkpoint that counts is chosen, without its network."""
        return str(getattr(self, PROTOCOLS[self.protocol].score_key))

    @property
    def label_free_scores(self) -> tuple[str, ...]:
        """The scores without labels that an evaluation has."""
        chosen = () if self.needs_labels else (self.label_free,)
        return tuple(dict.fromkeys((*chosen, *self.log_label_free)))

    def rank(self, step: int, score: float) -> float:
        """Of two checkpoints the one with the higher rank counts."""
        return PROTOCOLS[self.protocol].rank(step, score)


def joined_metrics(metrics: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """The metrics of several networks, by `metric_name`."""
    return {metric_name(one, name): v for one, own in metrics for name, v in own.items()}


def metric_name(network: str, name: str) -> str:
    """`miou` of the student, `ema/miou` of its average."""
    return name if network == STUDENT else f"{network}/{name}"


def chosen_text(protocol: str, score: str, network: str) -> str:
    """How a checkpoint was chosen, for tables: `best by miou, student`."""
    by = "" if PROTOCOLS[protocol].latest else f" by {score}"
    return f"{protocol}{by}, {network}"
