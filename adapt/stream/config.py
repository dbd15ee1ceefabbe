"""The sections `stream`, `source` and `target` of a job spec: how samples are drawn, fetched and
decoded, and from where."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from adapt.config.validation import Mistake
from adapt.data.packed.packed_split import SplitConfig
from adapt.stream.augment import AugmentConfig
from adapt.stream.orders import Sampling
from adapt.stream.orders.order import OrderConfig

LABELLED_SHARE = 0.5
"""As in MME's batches: half source, half labelled target."""

TRIES = {"error": 1, "skip": 100}
"""`stream.on_bad_sample` -> how many samples in a row are tried for a draw."""


class StreamConfig(OrderConfig):
    """How samples are drawn, fetched and decoded. Settings change the speed alone, never the
    samples, unless their description says otherwise."""

    threads: int | None = Field(
        None,
        ge=1,
        description="Decoding threads per rank; none: the node's cores divided among its ranks, 2 "
        "to 16.",
    )
    prefetch_batches: int = Field(
        3, ge=1, description="Batches to keep ready ahead of the training step."
    )
    decoded_mb: int = Field(
        256,
        ge=1,
        description="Memory limit of the batches that are ready, in 10^6 bytes per domain and "
        "rank; the next batch is decoded at any size.",
    )
    sampling: Sampling = Field(
        "windows",
        description="Order of the samples. windows: each once an epoch, shuffled within "
        "window_shards shards. papers: as the loaders of AdaptSegNet and ADVENT, the list "
        "ceil(schedule x batch_size / samples) times, shuffled once as a whole, so that samples "
        "recur before others were seen. rare_classes: each draw of a labelled domain picks a "
        "class, rare ones more often, then a sample that shows it (DAFormer, CVPR 2022); the "
        "target uses windows. Under papers and rare_classes any draw may need any shard: give the "
        "node a disk for the whole dataset, or samples are fetched one by one.",
    )
    on_bad_sample: Literal["error", "skip"] = Field(
        "error",
        description="Reaction to a training sample that cannot be decoded, or whose label has "
        "another size than its image. error: the job ends. skip: the sample of the next draw takes "
        "its place; each bad sample is named once in a warning and counted.",
    )
    cache_gb: float | None = Field(
        None,
        gt=0,
        description="Limit of the node's shard cache in 10^9 bytes; none: the free disk. "
        "Shards that do not fit are fetched again in each epoch.",
    )
    memory_gb: float = Field(
        1.5,
        gt=0,
        description="Memory per rank for shards that do not fit into the cache, in 10^9 bytes; "
        "those of the window in use are kept in any case.",
    )


class DomainConfig(SplitConfig):
    """A domain to train on."""

    batch_size: int = Field(
        1,
        ge=1,
        description="Samples of this domain a step, over all ranks; in a list of datasets, that of "
        "the first.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="In a list of datasets: the dataset's share of the draws, against the others' "
        "weights.",
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes of the samples.")

    @property
    def image_hw(self) -> tuple[int, int] | None:
        """Height and width of the images in batches, where the spec has them."""
        return self.augment.crop_hw or self.size_hw


class TargetConfig(DomainConfig):
    """The domain to adapt to: unlabelled, but for the samples that `labelled_split` or
    `labelled_keys` names, which join the source's batches."""

    labelled_split: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="A packed split of this dataset whose samples, with their labels, join the "
        "source's batches. It may hold samples of `split` too. No other label of the target is "
        "opened while training.",
    )
    labelled_keys: tuple[str, ...] | None = Field(
        None,
        description="Instead of labelled_split: keys of the samples of `split` whose labels may "
        "be used.",
    )
    labelled_keys_uri: str | None = Field(
        None,
        description="Instead of labelled_keys: a text file of them, one a line; path or URI of a "
        "store.",
    )
    labelled_share: float = Field(
        LABELLED_SHARE,
        gt=0,
        lt=1,
        description="Share of the labelled samples of the target among the draws of the source's "
        "batches. One half as in semi-supervised adaptation since MME (Saito et al., ICCV 2019).",
    )

    @model_validator(mode="after")
    def _one_way_to_name_them(self) -> "TargetConfig":
        ways = ("labelled_split", "labelled_keys", "labelled_keys_uri")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) > 1:
            raise Mistake(
                f"{given[1]}: expected one way to name the labelled samples, got {given[0]} too",
                fix=f"remove {given[0]} or {given[1]}",
            )
        if self.labelled_keys == ():
            raise Mistake(
                "labelled_keys: expected at least one key, got an empty list",
                fix="list some, or leave it out",
            )
        doubled = [key for key, times in Counter(self.labelled_keys or ()).items() if times > 1]
        if doubled:
            raise Mistake(
                f"labelled_keys: expected each key once, got {doubled[0]!r} several times",
                fix="remove what is there twice",
            )
        if not given and self.labelled_share != LABELLED_SHARE:
            raise Mistake(
                f"labelled_share: expected {LABELLED_SHARE} without labelled samples, got "
                f"{self.labelled_share}",
                fix="set labelled_split or labelled_keys, or leave it out",
            )
        return self

    @property
    def has_labelled(self) -> bool:
        """It names some."""
        named = (self.labelled_split, self.labelled_keys, self.labelled_keys_uri)
        return any(one is not None for one in named)
