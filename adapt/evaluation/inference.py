"""From images to the main head's logits: the whole image once, as in the papers, or several
views of it, by one network or several. Logits stay at the decoder's own size until they are asked
for: the map of classes takes them a few classes at a time.

One rule: the logits of every view are brought to the wanted size by their architecture's own
resizing, a mirrored view's are mirrored back, and all are averaged; several networks' are summed
with weights (ADVENT's "AdvEnt + MinEnt"). The caller takes the argmax, last. Windows are parts of
one view: where they overlap they are averaged, at the image's size, before anything else.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import reduce
from itertools import groupby, islice
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from adapt.accelerator import is_accelerator
from adapt.batch import Sample
from adapt.config.section import Section
from adapt.data.packed.packed_split import PackedSplit
from adapt.models.layers import resize
from adapt.models.segmenter import Segmenter
from adapt.stream.feed import normalise

ALL = slice(None)
FLOAT_BYTES = 4
BLOCK_BYTES = 256 << 20
"""Of logits at the wanted size that a map of classes is made from at a time."""
MAX_SCALE = 16
"""Of an image in a view: papers enlarge to twice its size, memory ends soon after."""


class InferenceConfig(Section):
    """The views of an image that are averaged; by default one, the whole image (the papers)."""

    flip: bool = Field(
        False, description="Average the logits with those of the mirrored image (papers: no)."
    )
    scales: tuple[Annotated[float, Field(gt=0, le=MAX_SCALE)], ...] = Field(
        (1.0,),
        min_length=1,
        description="Average the logits over the image enlarged by these factors (papers: 1).",
    )
    window_hw: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        description="Height and width in pixels of windows that slide over the image, for networks "
        "trained on crops; null: the whole image in one pass (papers).",
    )
    window_stride_hw: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        description="Pixels from one window to the next, down and across; by default two thirds "
        "of the window.",
    )

    @model_validator(mode="after")
    def _windows_meet(self) -> "InferenceConfig":
        stride, window = self.window_stride_hw, self.window_hw
        if stride is not None and (
            window is None or stride[0] > window[0] or stride[1] > window[1]
        ):
            found = "none" if window is None else str(list(window))
            raise ValueError(
                f"window_stride_hw: expected at most window_hw, got {list(stride)} with "
                f"window_hw {found}"
            )
        return self


WHOLE_IMAGE = InferenceConfig()


class EnsembleMember(NamedTuple):
    """A network of an ensemble, and the factor of its logits."""

    segmenter: Segmenter
    weight: float = 1.0


class Predicted(NamedTuple):
    """A sample, by its number in the split, and its logits (K, h, w) float32 on the device."""

    number: int
    sample: Sample
    logits: Tensor


class ViewLogits(NamedTuple):
    """A view's logits (B, K, h, w) at the decoder's own size, and how they become the image's."""

    logits: Tensor
    align_corners: bool
    mirrored: bool

    def resized(self, classes: slice, size_hw: tuple[int, int]) -> Tensor:
        """Those of some classes, (B, k, *size_hw) float32, each pixel at its place in the image."""
        own = self.logits[:, classes]
        same = own.shape[-2:] == size_hw
        whole = (own if same else resize(own, size_hw, self.align_corners)).float()
        return whole.flip(-1) if self.mirrored else whole


class OwnSize(NamedTuple):
    """The logits of B images at their decoders' own sizes: by network its factor, and its views."""

    members: tuple[tuple[float, tuple[ViewLogits, ...]], ...]
    size_hw: tuple[int, int]

    def whole(self, classes: slice = ALL) -> Tensor:
        """The weighted sum of logits (B, K, *size_hw) float32, or that of some classes."""
        return reduce(torch.add, (self._weighted(*one, classes) for one in self.members))

    def class_maps(self) -> Tensor:
        """(B, *size_hw) int64 train ids: those of `whole`, which is never held as a whole where it
        is larger than `BLOCK_BYTES`."""
        images, num_classes = self.members[0][1][0].logits.shape[:2]
        each = FLOAT_BYTES * images * self.size_hw[0] * self.size_hw[1]
        step = max(1, BLOCK_BYTES // each)
        best, classes = self.whole(slice(0, step)).max(dim=1)
        for first in range(step, num_classes, step):
            values, places = self.whole(slice(first, first + step)).max(dim=1)
            better = (values > best) | (values.isnan() & ~best.isnan())
            classes = torch.where(better, places + first, classes)
            best = torch.where(better, values, best)
        return classes

    def finite(self) -> Tensor:
        """True, on the device, where all logits are numbers."""
        views = [one.logits for _, views in self.members for one in views]
        return torch.stack([torch.stack(one.aminmax()).isfinite().all() for one in views]).all()

    def image(self, number: int) -> "OwnSize":
        """One of the images, as B = 1."""
        part = slice(number, number + 1)
        members = (
            (factor, tuple(one._replace(logits=one.logits[part]) for one in views))
            for factor, views in self.members
        )
        return self._replace(members=tuple(members))

    def _weighted(self, factor: float, views: Sequence[ViewLogits], classes: slice) -> Tensor:
        logits = reduce(torch.add, (one.resized(classes, self.size_hw) for one in views))
        return logits if factor == 1 else logits * factor


class PredictedViews(NamedTuple):
    """A sample, by its number in the split, and its logits at their own size, as B = 1."""

    number: int
    sample: Sample
    found: OwnSize


SizeOf = Callable[[int, Sample], tuple[int, int]]


def image_size(_number: int, sample: Sample) -> tuple[int, int]:
    """That of the image, for `predictions`."""
    return sample.image_hw


def members_of(segmenters: Segmenter | Sequence[EnsembleMember]) -> tuple[EnsembleMember, ...]:
    """One network is an ensemble of one."""
    return tuple(segmenters) if isinstance(segmenters, Sequence) else (EnsembleMember(segmenters),)


@torch.no_grad()
def predictions(
    members: Sequence[EnsembleMember],
    split: PackedSplit,
    indices: Sequence[int],
    size_of: SizeOf,
    device: torch.device,
    *,
    views: InferenceConfig = WHOLE_IMAGE,
    threads: int = 2,
) -> Generator[Predicted]:
    """Samples in order, each with its logits at the size in pixels that `size_of` returns.

    The networks work in evaluation mode and are left in the mode they were in. Nothing here waits
    for the device.
    """
    seen = predicted_views(members, split, indices, size_of, device, views=views, threads=threads)
    with closing(seen):
        for number, sample, found in seen:
            yield Predicted(number, sample, found.whole()[0])


@torch.no_grad()
def predicted_views(
    members: Sequence[EnsembleMember],
    split: PackedSplit,
    indices: Sequence[int],
    size_of: SizeOf,
    device: torch.device,
    *,
    views: InferenceConfig = WHOLE_IMAGE,
    threads: int = 2,
    batch_size: int = 1,
) -> Generator[PredictedViews]:
    """The same with logits at their own size. Up to `batch_size` samples that follow one another,
    alike in size, are predicted together."""
    with (
        evaluating([segmenter for segmenter, _ in members]),
        closing(decoded(split, indices, threads)) as seen,
    ):
        for size_hw, batch in _batches(seen, size_of, batch_size):
            images = torch.stack([upload(sample.image, device) for _, sample in batch])
            found = own_size(members, images, size_hw, views)
            del images
            for place, (number, sample) in enumerate(batch):
                yield PredictedViews(number, sample, found.image(place))


def _batches(
    seen: Iterator[tuple[int, Sample]], size_of: SizeOf, most: int
) -> Iterator[tuple[tuple[int, int], list[tuple[int, Sample]]]]:
    """Samples in order, those of one size together, with the size wanted of their logits."""

    def sizes(one: tuple[int, Sample]) -> tuple[tuple[int, int], tuple[int, int]]:
        return one[1].image_hw, size_of(*one)

    for (_, size_hw), same in groupby(seen, sizes):
        while batch := list(islice(same, most)):
            yield size_hw, batch


@contextmanager
def evaluating(segmenters: Sequence[Segmenter]) -> Iterator[None]:
    """Within it the networks are in evaluation mode; after it in the mode they were in."""
    modes = [segmenter.training for segmenter in segmenters]
    for segmenter in segmenters:
        segmenter.eval()
    try:
        yield
    finally:
        for segmenter, mode in zip(segmenters, modes, strict=True):
            segmenter.train(mode)


def predict(
    members: Sequence[EnsembleMember],
    image: Tensor,
    size_hw: tuple[int, int],
    device: torch.device,
    views: InferenceConfig = WHOLE_IMAGE,
) -> Tensor:
    """(3, H, W) uint8 RGB -> the members' weighted sum of logits (K, *size_hw), on the device.

    Every member sees pixels in its own format. Gradients are the caller's to switch off.
    """
    return predict_batch(members, upload(image, device)[None], size_hw, views)[0]


def predict_batch(
    members: Sequence[EnsembleMember],
    images: Tensor,
    size_hw: tuple[int, int],
    views: InferenceConfig = WHOLE_IMAGE,
) -> Tensor:
    """The same for images of one size that are on the members' device: (B, 3, H, W) ->
    (B, K, *size_hw). On a GPU the last bits depend on B."""
    return own_size(members, images, size_hw, views).whole()


def own_size(
    members: Sequence[EnsembleMember],
    images: Tensor,
    size_hw: tuple[int, int],
    views: InferenceConfig = WHOLE_IMAGE,
) -> OwnSize:
    """The same before logits are brought to `size_hw`."""
    count = len(views.scales) * (2 if views.flip else 1)
    found = (
        (weight / count, _views(segmenter, images, size_hw, views)) for segmenter, weight in members
    )
    return OwnSize(tuple(found), size_hw)


def _views(
    segmenter: Segmenter, images: Tensor, size_hw: tuple[int, int], views: InferenceConfig
) -> tuple[ViewLogits, ...]:
    """One network's views; those of windows, which have the image's size, as their sum."""
    each = _each_view(segmenter, images, size_hw, views)
    if views.window_hw is None:
        return tuple(each)
    summed = reduce(torch.add, (one.resized(ALL, size_hw) for one in each))
    return (ViewLogits(summed, segmenter.align_corners, mirrored=False),)


def class_map(logits: Tensor) -> Tensor:
    """(K, H, W) -> (H, W) int64 train ids; of equal logits the first wins, as with numpy.

    PyTorch documents that for `max` and for `argmax`; on a CPU `max` is three times as fast.
    """
    return logits.max(dim=0).indices


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it."""
    pin = is_accelerator(device)
    return (pixels.pin_memory() if pin else pixels).to(device, non_blocking=pin)


def decoded(
    split: PackedSplit, indices: Sequence[int], threads: int
) -> Generator[tuple[int, Sample]]:
    """Samples in order, a few decoded ahead; their shards are released behind them."""
    shards = split.index.shard[list(indices)].tolist()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        split.want(shards)
        ahead = [pool.submit(split.read, index) for index in indices[: 2 * threads]]
        for position, index in enumerate(indices):
            following = position + 2 * threads
            if following < len(indices):
                ahead.append(pool.submit(split.read, indices[following]))
            yield index, ahead.pop(0).result()
            if shards[position + 1 : position + 2] != [shards[position]]:
                split.want(shards[position + 1 :])


def _each_view(
    segmenter: Segmenter, images: Tensor, size_hw: tuple[int, int], views: InferenceConfig
) -> Iterator[ViewLogits]:
    """One network's: uint8 (B, 3, H, W) -> logits, its own number of rows and columns in each."""
    for scale in views.scales:
        view = normalise(_enlarged(images, scale), segmenter.pixels)
        for mirrored in (False, True) if views.flip else (False,):
            shown = view.flip(-1) if mirrored else view
            logits = _view_logits(segmenter, shown, size_hw, views)
            yield ViewLogits(logits, segmenter.align_corners, mirrored)


def _enlarged(images: Tensor, scale: float) -> Tensor:
    """By Pillow's bicubic filter with antialiasing, as when packing; values out of range are cut
    off once, not after rows and again after columns.
    """
    if scale == 1:
        return images
    size_hw = [max(1, round(scale * length)) for length in images.shape[-2:]]
    resized = F.interpolate(images.float(), size=size_hw, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255)


def _view_logits(
    segmenter: Segmenter, images: Tensor, size_hw: tuple[int, int], views: InferenceConfig
) -> Tensor:
    """Normalised (B, 3, H, W) -> (B, K, h, w): the decoder's own, or at the image's size the mean
    of windows."""
    windows = list(sliding_windows((images.shape[-2], images.shape[-1]), views))
    if len(windows) == 1:
        logits: Tensor = segmenter(images, size_hw, main_alone=True).logits[0]
        return logits
    summed = images.new_zeros(len(images), segmenter.num_classes, *images.shape[-2:])
    passes = images.new_zeros(images.shape[-2:])
    for rows, columns in windows:
        window = images[..., rows, columns]
        own = segmenter(window, main_alone=True).logits[0]
        window_hw = (window.shape[-2], window.shape[-1])
        summed[..., rows, columns] += resize(own, window_hw, segmenter.align_corners).float()
        passes[rows, columns] += 1
    return summed / passes


def sliding_windows(
    size_hw: tuple[int, int], views: InferenceConfig
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the windows over an image, the last ones flush with its border.

    Where there are no windows, or the image is smaller, it is one window itself.
    """
    window_hw = views.window_hw or size_hw
    two_thirds = (-(-2 * window_hw[0] // 3), -(-2 * window_hw[1] // 3))
    stride_hw = views.window_stride_hw or two_thirds
    for rows in _along(size_hw[0], window_hw[0], stride_hw[0]):
        for columns in _along(size_hw[1], window_hw[1], stride_hw[1]):
            yield rows, columns


def _along(length: int, window: int, stride: int) -> list[slice]:
    room = max(0, length - window)
    starts = (min(start, room) for start in range(0, room + stride, stride))
    return [slice(start, min(start + window, length)) for start in starts]
