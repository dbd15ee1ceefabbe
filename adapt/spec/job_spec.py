"""`JobSpec`: one YAML file = one job, complete; its sections come from the files that own them.

No includes, no inheritance, no interpolation. A mistake is found before anything else runs and is
named by its key. The resolved spec, defaults filled in, is saved with the results and is itself a
valid job.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, field_validator, model_validator

from adapt.checkpoint.config import CheckpointConfig
from adapt.config.section import Section
from adapt.config.validation import Mistake
from adapt.data.label_maps import LabelSpace
from adapt.engine.segmenter_optimizer import OptimConfig
from adapt.engine.sgd import SGDConfig
from adapt.engine.train_config import TrainConfig
from adapt.errors import JobError, written
from adapt.evaluation.protocol import EvaluateConfig, ValidationConfig
from adapt.methods import METHODS, labelling_of
from adapt.methods.distillation import DistillationConfig
from adapt.methods.teacher_network import teacher_of
from adapt.models.config import SegmenterConfig
from adapt.models.pixel_loss import LossConfig
from adapt.models.weight_files import ENDINGS
from adapt.report.config import ReportConfig
from adapt.spec.consistency import LABELLING_RUN, check_consistency
from adapt.stream.config import DomainConfig, StreamConfig
from adapt.stream.domains import (
    DOMAINS,
    Part,
    SourceSection,
    TargetSection,
    check_one_size,
    datasets_of,
    labelled_parts,
    unlabelled_parts,
)
from adapt.tracking.config import TrackingConfig
from storage.config import StoreConfig, fitting_key, settings_name
from storage.uris import join

if TYPE_CHECKING:
    ModelSection = SegmenterConfig
    MethodSection = Any
    OptimSection = OptimConfig
else:
    from adapt.engine.optim import OptimSection
    from adapt.methods import MethodSection
    from adapt.models import ModelSection


BASELINE = "report.baseline"
"""The key of the run that the report compares with."""

TEACHER_URI = "method.teacher.uri"
"""The key of a trained teacher's weights."""

_REGISTERED = "models:/"

_APART = frozenset("/\\?#")
"""Characters that divide a URI."""


class JobSpec(Section):
    """A whole job.

    `classes` names a label space or is a table of classes with colours and the datasets' ids.
    """

    name: str = Field("", description="Name of the run; by default the spec file's name.")
    seed: int = Field(
        1234, ge=0, lt=2**63, description="Start of all random numbers (ADVENT's value)."
    )
    classes: LabelSpace = Field(description="A label space by name, or a table of classes.")
    source: SourceSection = Field(
        description="The labelled domain: a dataset, or a list of them with weights."
    )
    target: TargetSection | None = Field(
        None,
        description="The domain to adapt to: a dataset, or a list of them with weights; its labels "
        "are never opened while training, but for those that it names.",
    )
    validation: ValidationConfig | None = Field(
        None, description="The split to choose the best checkpoint on."
    )
    model: ModelSection = Field(description="The segmentation network.")
    method: MethodSection = Field(description="The adaptation method.")
    distillation: DistillationConfig | None = Field(
        None, description="Nearness to a frozen foundation encoder, beside any method."
    )
    loss: LossConfig = Field(LossConfig(), description="The supervised loss of every head.")
    optim: OptimSection = Field(SGDConfig(), description="Optimizers and schedule.")
    train: TrainConfig = Field(TrainConfig(), description="Length and precision.")
    stream: StreamConfig = Field(StreamConfig(), description="Fetching and decoding.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Validation.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Saves.")
    tracking: TrackingConfig = Field(TrackingConfig(), description="MLflow.")
    report: ReportConfig = Field(ReportConfig(), description="The page at the end of the run.")
    stores: dict[str, StoreConfig] = Field(
        {},
        description="Settings of object stores by URI scheme, or by how URIs begin "
        "(`s3://bucket`, `s3://bucket/prefix`; the longest that fits applies).",
    )

    @field_validator("name")
    @classmethod
    def _one_folder(cls, name: str) -> str:
        """The run's folder and its MLflow run have this name."""
        if not name.isprintable() or name != name.strip() or name[:1] == "." or set(name) & _APART:
            raise Mistake(
                f"expected the name of one folder, without a dot first and without "
                f"{' '.join(sorted(_APART))}, got {written(name)}",
                fix="write letters, digits, - and _",
            )
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "JobSpec":
        check_consistency(self)
        return self

    def datasets(self, domain: str) -> Mapping[str, DomainConfig]:
        """The sections of `source` or `target` by key, one or those of its list; none where the job
        has no target."""
        return datasets_of(domain, getattr(self, domain))

    def batch_size(self, domain: str) -> int:
        """Samples of a domain a step, over all ranks."""
        return next(iter(self.datasets(domain).values())).batch_size

    def parts(self, domain: str) -> tuple[Part, ...]:
        """The datasets that the batches of a domain draw from: `source` with the labelled samples
        of the target, or `target`."""
        targets = datasets_of("target", self.target)
        if domain == "target":
            return unlabelled_parts(targets)
        return labelled_parts(self.datasets("source"), targets)

    def trained_parts(self, domain: str) -> tuple[Part, ...]:
        """As `parts`, with images of the target for the source where a labelling stage takes them;
        the source's section, of a list the first, has their augmentation."""
        parts, targets = self.parts(domain), datasets_of("target", self.target)
        if domain != "source" or len(targets) != 1 or not METHODS[self.method.name].fills(domain):
            return parts
        labelled = [part for part in parts if part.key in targets]
        first, *_ = self.datasets(domain).values()
        taken = first.model_copy(update={"size_hw": targets["target"].size_hw})
        weight = sum(part.weight for part in parts if part.key not in targets)
        return (Part("target", domain, taken, True, weight), *labelled)

    def uris(self) -> dict[str, str]:
        """Every URI that the job touches, by key."""
        found = {f"{key}.uri": one.uri for key, one in self.datasets("source").items()}
        found["checkpoint.uri"] = self.checkpoint.uri
        for key, one in datasets_of("target", self.target).items():
            found[f"{key}.uri"] = one.uri
            if one.labelled_keys_uri is not None:
                found[f"{key}.labelled_keys_uri"] = one.labelled_keys_uri
        if self.validation is not None:
            found["validation.uri"] = self.validation.uri
        models = {"model": self.model}
        teacher = teacher_of(self.method)
        if teacher is not None:
            models["method.teacher.model"] = teacher.model
        for where, model in models.items():
            for key in ("weights_uri", "start_uri"):
                uri = getattr(model, key)
                if uri is not None:
                    found[f"{where}.{key}"] = uri
        if self.distillation is not None and self.distillation.weights_uri is not None:
            found["distillation.weights_uri"] = self.distillation.weights_uri
        for name, uri in getattr(self.method, "discriminator_uris", {}).items():
            found[f"method.discriminator_uris.{name}"] = uri
        runs = {
            LABELLING_RUN: self.labelling_uri(),
            TEACHER_URI: self.teacher_uri(),
            BASELINE: self.baseline_uri(),
        }
        return found | {key: uri for key, uri in runs.items() if uri is not None}

    def baseline_uri(self) -> str | None:
        """The folder of the run that the report compares with; None without one."""
        run = self.report.baseline
        if run is None or not self.report.enabled:
            return None
        return run if "/" in run else join(self.checkpoint.uri, run)

    def labelling_uri(self) -> str | None:
        """The run, checkpoint or file of weights that labels the target; None without a stage. A
        plain name is that of a run beside this one."""
        section = labelling_of(self.method)
        if section is None or section.run is None:
            return None
        return self._of_run(section.run)

    def teacher_uri(self) -> str | None:
        """The run, checkpoint or file of weights of a trained teacher; None without one, and for a
        registered model."""
        section = teacher_of(self.method)
        if section is None or section.uri is None or section.uri.startswith(_REGISTERED):
            return None
        return self._of_run(section.uri)

    def _of_run(self, named: str) -> str:
        """A plain name is that of a run beside this one."""
        plain = "/" not in named and not named.lower().endswith(ENDINGS)
        return join(self.checkpoint.uri, named) if plain else named

    def check_environment(self, environment: Mapping[str, str]) -> None:
        """Raise `JobError` where a store's secret is named but not in the environment."""
        used = {fitting_key(uri, self.stores) for uri in self.uris().values()} - {None}
        for store in sorted(str(key) for key in used):
            for key in ("access_key_env", "secret_key_env", "session_token_env"):
                variable = getattr(self.stores[store], key)
                if variable is not None and not environment.get(variable):
                    raise JobError(
                        f"{settings_name(store)}.{key}: expected the secret in environment "
                        f"variable {variable}, got none",
                        fix="export it before starting the job",
                    )

    def check_ranks(self, num_ranks: int) -> None:
        """Raise `JobError` where the batches cannot be shared out evenly."""
        for domain in DOMAINS:
            parts = num_ranks * self.train.accumulate
            for key, one in self.datasets(domain).items():
                if one.batch_size % parts:
                    raise JobError(
                        f"{key}.batch_size: expected a multiple of {parts} ({num_ranks} ranks x "
                        f"train.accumulate {self.train.accumulate}), got {one.batch_size}"
                    )
                if one.batch_size > num_ranks:
                    check_one_size(domain, self.parts(domain))

    def resolved(self) -> dict[str, Any]:
        """All values with defaults filled in, as plain data."""
        values: dict[str, Any] = self.model_dump(mode="json")
        return values

    def to_yaml(self) -> str:
        """The resolved spec as YAML; loading it gives this spec again."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, default_flow_style=None, width=100)


def json_schema() -> str:
    """JSON schema of a job spec, for editors and for the reference page."""
    return json.dumps(JobSpec.model_json_schema(), indent=1) + "\n"
