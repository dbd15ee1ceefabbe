"""The sections `stream`, `source` and `target` of a job spec: how samples are drawn, fetched and
decoded, and from where."""

from typing import Literal

from pydantic import Field

from adapt.data.packed.packed_split import SplitConfig
from adapt.stream.augment import AugmentConfig
from adapt.stream.orders import Sampling
from adapt.stream.orders.order import OrderConfig

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

    batch_size: int = Field(1, ge=1, description="Samples of this domain a step, over all ranks.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Random changes of the samples.")
