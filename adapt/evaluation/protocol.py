"""How a job is evaluated: what and when, by which score, and which checkpoint counts.

The papers differ: ADVENT and DACS report the best snapshot by the labels of the split that they
report on, DAFormer and MIC the last one. Tables compare only under one protocol.

Where a run's chosen score is found: its name is `evaluate.select_by` of the run's `spec.yaml`,
`Outcome.chosen_by` and MLflow's tag `best_checkpoint_chosen_by`; its values are MLflow's metric
`validation/NAME` (`validation/ema/NAME` with `weights: ema`, see `metric_name`) at each evaluation,
and of the checkpoint that counts `Outcome.best.score`. `sign` says which values are better.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.data.packed.packed_split import SplitConfig
from adapt.evaluation.inference import InferenceConfig
from adapt.evaluation.label_free import LABEL_FREE_SCORES

Labelled = Literal["miou", "pixel_accuracy", "miou_synthia16", "miou_synthia13"]
"""The scores that are counted on labels."""

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

AGREEMENT = "ensemble_agreement"
"""The score of a checkpoint among others: how well it agrees with all of them together."""

ScoreName = Literal[Labelled, LabelFree, "ensemble_agreement"]

WITH_LABELS, WITHOUT_LABELS = "miou", AGREEMENT
"""The scores that choose by default."""

STUDENT, EMA, TEACHER = "student", "ema", "teacher"
"""The network that learns, its moving average, and a larger network that teaches it."""


class Protocol(NamedTuple):
    """A row of `PROTOCOLS`: whether the latest checkpoint counts instead of that of the best
    score."""

    latest: bool = False

    def rank(self, step: int, goodness: float) -> float:
        """Of two checkpoints the one with the higher rank counts."""
        return step if self.latest else goodness


PROTOCOLS = {"best": Protocol(), "last": Protocol(latest=True)}
"""By the spec's `evaluate.protocol`."""


def sign(score: str) -> int:
    """1 where higher values of a score are better, -1 where lower ones are."""
    row = LABEL_FREE_SCORES.get(score)
    return -1 if row is not None and row.lower else 1


class EarlyStopConfig(Section):
    """When a run ends before its last step."""

    patience: PositiveInt = Field(
        5, description="Evaluations one after the other without a gain after which the run ends."
    )
    min_delta: NonNegativeFloat = Field(
        0.0,
        description="A gain is more than this over the score at the last gain, in shares (0.01 is "
        "a point of mIoU); by ensemble_agreement over that of each earlier candidate.",
    )


class ValidationConfig(SplitConfig):
    """The split that checkpoints are scored on; it needs labels only where `evaluate.select_by`
    does."""

    split: str = Field("val", description="Name of the split.")


class EvaluateConfig(InferenceConfig):
    """When and how to evaluate, and how to choose the best checkpoint."""

    every_steps: int = Field(
        2000, ge=1, description="Steps between two evaluations (ADVENT's number)."
    )
    batch_size: int = Field(
        1,
        ge=1,
        description="Images that follow one another, alike in size, which the network predicts "
        "together: faster on a GPU where images are small; its last bits depend on it (papers: 1).",
    )
    subsets: tuple[Literal["synthia16", "synthia13"], ...] = Field(
        (),
        description="Means over fewer classes to report beside, from the same confusion matrix: "
        "the papers' 16 and 13 classes of SYNTHIA.",
    )
    protocol: Literal["best", "last"] = Field(
        "best",
        description="The checkpoint that counts: that is marked as the best, delivered and "
        "registered. best: that of the best select_by (ADVENT, DACS by labels); last: the last one "
        "(DAFormer, MIC).",
    )
    select_by: ScoreName | None = Field(
        None,
        description="The score by which the best checkpoint is chosen and `early_stop` ends the "
        "run; a subset's mIoU must be among subsets. null: miou where the validation split has "
        "labels, else ensemble_agreement. Without labels: ensemble_agreement, of the checkpoints "
        "that are kept the one that agrees most with all of them together (EnsV); "
        "information_maximisation: entropy of the mean prediction less the mean entropy of "
        "predictions, over ln K; with the same weight for each predicted class nuclear_norm of the "
        "predictions, correlation of classes (Corr-C), mean_entropy (over ln K; low is better), "
        "soft_neighbourhood_density (SND); agreement of classes, as mIoU, with the mirrored "
        "image's (flip_consistency), with those under other colours (colour_consistency), with "
        "the moving average's (teacher_agreement).",
    )
    log_label_free: tuple[LabelFree, ...] = Field(
        (), description="Scores without labels to log at each evaluation, whichever chooses."
    )
    early_stop: EarlyStopConfig | None = Field(
        None,
        description="End the run where select_by gains no more; it is done then. null: train all "
        "steps.",
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
        subset = self.score.removeprefix("miou_")
        if subset != self.score and subset not in self.subsets:
            raise Mistake(
                f"select_by: expected a reported score, got {self.score!r} without "
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
        """True where the score that chooses is named, and is one of labels."""
        return self.select_by in get_args(Labelled)

    @property
    def score(self) -> str:
        """The score by which checkpoints are chosen, without its network; that of labels where it
        is not settled yet (`settled`)."""
        return self.select_by or WITH_LABELS

    def settled(self, labelled: bool) -> "EvaluateConfig":
        """The same with the score that chooses on a split with labels, or on one without."""
        chosen = self.select_by or (WITH_LABELS if labelled else WITHOUT_LABELS)
        return self.model_copy(update={"select_by": chosen})

    @property
    def score_metric(self) -> str:
        """The metric of an evaluation that chooses: the score of the network that counts."""
        return metric_name(self.weights, self.score)

    @property
    def by_agreement(self) -> bool:
        """True where checkpoints are scored beside one another."""
        return self.score == AGREEMENT

    @property
    def label_free_scores(self) -> tuple[str, ...]:
        """The scores without labels that an evaluation of one network has."""
        chosen = (self.score,) if self.score in LABEL_FREE_SCORES else ()
        return tuple(dict.fromkeys((*chosen, *self.log_label_free)))

    def rank(self, step: int, score: float) -> float:
        """Of two checkpoints the one with the higher rank counts."""
        return PROTOCOLS[self.protocol].rank(step, sign(self.score) * score)


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
