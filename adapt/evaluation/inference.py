"""From images to the main head's logits: the whole image once, as in the papers, or several
views of it, by one network or several.

One rule: the logits of every view are brought to the wanted size by their architecture's own
resizing, a mirrored view's are mirrored back, and all are averaged; several networks' are summed
with weights (ADVENT's "AdvEnt + MinEnt"). The caller takes the argmax, last. Windows are parts of
one view: where they overlap they are averaged, at the image's size, before anything else.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from adapt.batch import Sample
from adapt.config.section import Section
from adapt.data.packed.packed_split import PackedSplit
from adapt.models.layers import resize
from adapt.models.segmenter import Segmenter
from adapt.stream.feed import normalise

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
    with evaluating([segmenter for segmenter, _ in members]):
        for number, sample in decoded(split, indices, threads):
            size_hw = size_of(number, sample)
            yield Predicted(number, sample, predict(members, sample.image, size_hw, device, views))


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
    return reduce(torch.add, (_weighted(member, images, size_hw, views) for member in members))


def class_map(logits: Tensor) -> Tensor:
    """(K, H, W) -> (H, W) int64 train ids; of equal logits the first wins, as with numpy.

    PyTorch documents that for `max` and for `argmax`; on a CPU `max` is three times as fast.
    """
    return logits.max(dim=0).indices


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it."""
    pin = device.type == "cuda"
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


def _weighted(
    member: EnsembleMember, images: Tensor, size_hw: tuple[int, int], views: InferenceConfig
) -> Tensor:
    """One network's share: uint8 (B, 3, H, W) -> logits (B, K, *size_hw) times its weight."""
    factor = member.weight / (len(views.scales) * (2 if views.flip else 1))
    logits = reduce(torch.add, _each_view(member.segmenter, images, size_hw, views))
    return logits if factor == 1 else logits * factor


def _each_view(
    segmenter: Segmenter, images: Tensor, size_hw: tuple[int, int], views: InferenceConfig
) -> Iterator[Tensor]:
    for scale in views.scales:
        view = normalise(_enlarged(images, scale), segmenter.pixels)
        yield _view_logits(segmenter, view, size_hw, views)
        if views.flip:
            yield _view_logits(segmenter, view.flip(-1), size_hw, views).flip(-1)


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
    """Normalised (B, 3, H, W) -> (B, K, *size_hw) float32, in one pass or window by window."""
    windows = list(sliding_windows((images.shape[-2], images.shape[-1]), views))
    if len(windows) == 1:
        return segmenter(images, size_hw).logits[0].float()
    summed = images.new_zeros(len(images), segmenter.num_classes, *images.shape[-2:])
    passes = images.new_zeros(images.shape[-2:])
    for rows, columns in windows:
        summed[..., rows, columns] += segmenter(images[..., rows, columns]).logits[0].float()
        passes[rows, columns] += 1
    return resize(summed / passes, size_hw, segmenter.align_corners)


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
