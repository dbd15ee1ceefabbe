"""`LoadedModel`: a trained network that predicts images, as evaluations do.

An image is resized to the size that evaluations read, by Pillow's bicubic filter; the logits of
`adapt.evaluation.inference` are brought back to the image's own size before the argmax.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple, cast, overload

import torch
from torch import Tensor

from adapt.accelerator import accelerator
from adapt.config.validation import validate
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.codecs import Pixels, resize_image
from adapt.engine.train_config import PRECISIONS
from adapt.errors import JobError, known_names
from adapt.evaluation.inference import EnsembleMember, InferenceConfig, predict_batch, upload
from adapt.models.file_header import FileHeader
from adapt.models.segmenter import Segmenter
from adapt.use.images import ImageLike, rgb_pixels
from adapt.use.segmentation import Segmentation
from storage.stores import Stores

_AHEAD = 16
"""Images of a list in memory at the same time."""
_BATCH_PIXELS = 1 << 22
"""Of a batch on a GPU, of the input or the logits: two images of 1024 x 2048."""

Size = tuple[int, int]


class PreparedImage(NamedTuple):
    """An image (H, W, 3) uint8 RGB with the network's input (h, w, 3) made of it."""

    name: str
    pixels: Pixels
    input: Pixels

    @property
    def sizes(self) -> tuple[Size, Size]:
        """Of the input and of the image."""
        inner, outer = self.input.shape, self.pixels.shape
        return (inner[0], inner[1]), (outer[0], outer[1])


class LoadedModel:
    """A network with all that it needs to predict images. `adapt.load` makes it.

    `classes`: names, colours and datasets' ids in train-id order. `size_hw`: the size in pixels to
    which images are resized, None for their own; it may be set. `views`: the mirrored images,
    scales and windows that are averaged. `lineage`: version, step and data that it comes from;
    empty where the file does not state them. `device`, `precision`: where and how it computes.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        header: FileHeader,
        stores: Stores,
        device: torch.device | str | None = None,
        precision: str = "fp32",
    ) -> None:
        if precision not in PRECISIONS:
            raise JobError(
                f"precision: expected a known name, {known_names(precision, PRECISIONS)}"
            )
        self.device, self.precision = _device(device), precision
        self.segmenter = segmenter.eval().requires_grad_(False).to(self.device)
        assert header.classes is not None, "loading asks for them"
        self.classes: LabelSpace = header.classes
        self.size_hw = header.size_hw
        self.views = validate(InferenceConfig, dict(header.views), "segadapt.views")
        self.lineage: Mapping[str, Any] = header.lineage
        self._stores = stores

    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], batch_size: int | None = None
    ) -> list[Segmentation]: ...
    @overload
    def predict(self, images: ImageLike, batch_size: int | None = None) -> Segmentation: ...
    def predict(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int | None = None
    ) -> Segmentation | list[Segmentation]:
        """One image -> its segmentation; a list -> a list in the same order.

        An image is a path, a URI, a Pillow image or an array: (H, W) or (H, W, C) of uint8, uint16
        or bool, its channels grey, grey and alpha, RGB, or RGB and alpha. `batch_size` limits the
        images of one pass. Raises `DataError` for an image that is refused, by name, `JobError`,
        and `StoreError`.
        """
        if isinstance(images, list | tuple):
            return list(self.predict_each(images, batch_size))
        image = self.prepare(cast(ImageLike, images), _name_of(0, images))
        return self.predict_prepared([image], keep_logits=True)[0]

    def predict_each(
        self, images: Iterable[ImageLike], batch_size: int | None = None
    ) -> Iterator[Segmentation]:
        """The segmentations of images in their order, for sets larger than the memory.

        At most 16 images are read ahead. Those of one size share a pass: of `batch_size` images,
        by default one on the CPU, and on a GPU about 4 million pixels. Raises as `predict`.
        """
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise JobError(f"batch_size: expected a positive integer, got {batch_size!r}")
        named = ((_name_of(number, image), image) for number, image in enumerate(images))
        while chunk := [self.prepare(image, name) for name, image in islice(named, _AHEAD)]:
            yield from self.predict_prepared(chunk, batch_size)

    def prepare(self, image: ImageLike, name: str) -> PreparedImage:
        """Read an image and resize it, as `predict` does; threads may call it. `name` stands in
        messages for images without a path. Raises as `predict`."""
        pixels = rgb_pixels(image, name, self._stores)
        size_hw = self.size_hw
        if size_hw is None or pixels.shape[:2] == tuple(size_hw):
            return PreparedImage(name, pixels, pixels)
        return PreparedImage(name, pixels, resize_image(pixels, size_hw))

    def predict_prepared(
        self,
        images: Sequence[PreparedImage],
        batch_size: int | None = None,
        keep_logits: bool = False,
    ) -> list[Segmentation]:
        """The segmentations of images in their order; those of one size share a pass.

        With `keep_logits` the results keep the logits of their pass on the device, 4 K bytes a
        pixel, from which `probabilities` come; else these are computed anew.
        """
        done: dict[int, Segmentation] = {}
        order = sorted(range(len(images)), key=lambda number: images[number].sizes)
        for sizes, group in groupby(order, lambda number: images[number].sizes):
            for batch in _parts(list(group), batch_size or self._most(sizes)):
                logits = self._logits([images[number] for number in batch])
                for number, own in zip(batch, logits, strict=True):
                    done[number] = self._result(images[number], own, keep_logits)
        return [done[number] for number in range(len(images))]

    def _result(self, image: PreparedImage, logits: Tensor, keep: bool) -> Segmentation:
        again = partial(_kept, logits) if keep else partial(self._alone, image)
        return Segmentation(image.name, image.pixels, logits, self.classes, again)

    def _alone(self, image: PreparedImage) -> Tensor:
        return self._logits([image])[0]

    @torch.no_grad()
    def _logits(self, batch: Sequence[PreparedImage]) -> Tensor:
        """Images of the same sizes -> logits (B, K, H, W) float32 at the images' own size."""
        inputs = [torch.from_numpy(image.input).permute(2, 0, 1) for image in batch]
        images = upload(torch.stack(inputs), self.device)
        members = (EnsembleMember(self.segmenter),)
        with PRECISIONS[self.precision](self.device.type):
            return predict_batch(members, images, batch[0].sizes[1], self.views)

    def _most(self, sizes: tuple[Size, Size]) -> int:
        """Images of a pass: several on a GPU alone, since they are no faster on a CPU and change
        the last bits."""
        if self.device.type == "cpu":
            return 1
        return max(1, _BATCH_PIXELS // max(height * width for height, width in sizes))

    def __repr__(self) -> str:
        config = self.segmenter.config
        step = self.lineage.get("step")
        origin = "" if step is None else f", step {step}"
        return (
            f"LoadedModel({config.architecture} on {config.encoder}, {self.classes.num_classes} "
            f"classes{origin}, {self.precision} on {self.device})"
        )


def _kept(logits: Tensor) -> Tensor:
    return logits


def _name_of(number: int, image: object) -> str:
    """The path of an image, else its number."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def _parts(numbers: list[int], length: int) -> Iterator[list[int]]:
    return (numbers[start : start + length] for start in range(0, len(numbers), length))


def _device(name: torch.device | str | None) -> torch.device:
    """The device of this name; by default the GPU where there is one. Raises `JobError`."""
    if name is None:
        return accelerator()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise JobError(
            f"device: expected a device of PyTorch that is there, got {str(name)!r} ({reason})",
            "leave it out, or name cpu",
        ) from error
    return device
