"""The files of `data clean`: a list for `pack --skip-file`, a contact sheet of what it names."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from adapt.data.cleaning.alignment import borders
from adapt.data.cleaning.clean import Proposal, ReadLabel
from adapt.data.datasets import RawSample
from adapt.data.packed.inspect import in_grid
from adapt.data.raw_images import read_image
from adapt.errors import DataError

WIDTH_PX = 320
CAPTION_PX = 28
COLUMNS = 4
YELLOW = (255, 230, 0)


def skip_list(proposals: Sequence[Proposal], num_samples: int) -> str:
    """The list: a key a line with its reasons as a comment, in order of key."""
    reasons: dict[str, list[str]] = {}
    for one in proposals:
        reasons.setdefault(one.key, []).append(f"{one.check}: {one.reason}")
    head = [
        f"# {len(reasons)} of {num_samples} samples, proposed by `segadapt data clean`.",
        "# Remove the lines of those to keep, then: segadapt pack ... --skip-file THIS",
    ]
    lines = [f"{key}  # {one_line('; '.join(reasons[key]))}" for key in sorted(reasons)]
    return "\n".join([*head, *lines]) + "\n"


def one_line(text: str) -> str:
    """A text without line ends."""
    return " ".join(text.split())


def sheet(
    proposals: Sequence[Proposal],
    samples: Mapping[str, RawSample],
    read_label: ReadLabel,
    most: int,
) -> Image.Image | None:
    """A picture of the first proposals, each image with the borders of its label and the reason;
    None where there are none."""
    tiles = [tile(one, samples[one.key], read_label) for one in proposals[:most]]
    return in_grid(tiles, COLUMNS) if tiles else None


def tile(one: Proposal, sample: RawSample, read_label: ReadLabel) -> Image.Image:
    """One proposal; a file that cannot be read is a grey field."""
    picture = thumbnail(sample, read_label)
    found = Image.new("RGB", (WIDTH_PX, picture.height + CAPTION_PX), "white")
    found.paste(picture, (0, CAPTION_PX))
    draw = ImageDraw.Draw(found)
    draw.text((2, 1), shortened(one.key), "black")
    draw.text((2, 14), shortened(f"{one.check}: {one.reason}"), "black")
    return found


def shortened(text: str) -> str:
    """A text as long as a tile is wide, of letters that Pillow's own font has."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= 52 else f"{plain[:49]}..."


def thumbnail(sample: RawSample, read_label: ReadLabel) -> Image.Image:
    """An image with the borders of its label in yellow."""
    try:
        image = Image.fromarray(read_image(sample.image_path))
    except DataError:
        return Image.new("RGB", (WIDTH_PX, WIDTH_PX // 2), "grey")
    size = (WIDTH_PX, max(1, round(image.height * WIDTH_PX / image.width)))
    small = np.array(image.resize(size, Image.Resampling.BILINEAR))
    if sample.label_path is not None:
        try:
            labels = Image.fromarray(read_label(sample.label_path))
        except DataError:
            return Image.fromarray(small)
        found = borders(np.asarray(labels.resize(size, Image.Resampling.NEAREST)))
        small[found > 0] = YELLOW
    return Image.fromarray(small)
