"""The answers as one plan: which data is packed where and how, the classes, the section of each
domain. From it come the spec's text and the commands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.inspect import distinct_colours
from adapt.data.packed.manifest import PackedLabelSpace
from adapt.errors import JobError, counted
from adapt.proposal.classes import Proposed, ProposedClass
from adapt.proposal.held import Held
from adapt.proposal.label_values import LabelValues
from storage.uris import join

LONGEST_PX = 1280
"""Images are packed with sides of at most so many pixels, as the papers pack GTA5."""
SIDE_STEP_PX = 8
HELD_OUT = 0.2
"""Share of a labelled target that is kept for validation."""
TRAIN_LIST, VAL_LIST = "target_train.txt", "target_val.txt"


class Packing(NamedTuple):
    """One `pack` command: of `split` of a folder to `uri`; `size_hw` None keeps originals,
    `skip_file` names samples to leave out."""

    held: Held
    uri: str
    split: str
    size_hw: tuple[int, int] | None
    labelled: bool
    skip_file: str | None = None


class Scored(NamedTuple):
    """The split to score on, and its packing where it is not packed yet."""

    uri: str
    split: str
    packing: Packing | None


@dataclass(frozen=True)
class Plan:
    """All that spec and commands are written from. `ids` are the target's, by the name of the
    source's classes; `lists` are files to write, by name; `notes` stand in the spec."""

    out: Path
    source: Held
    target: Held
    source_uri: str
    target_uri: str
    source_hw: tuple[int, int]
    target_hw: tuple[int, int]
    classes: Proposed
    target_classes: Proposed | None
    ids: Mapping[str, Sequence[int]]
    packings: tuple[Packing, ...]
    validation: Scored | None
    pairs_only: bool
    lists: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]

    @property
    def least_hw(self) -> tuple[int, int]:
        """The least height and width of both domains' images."""
        pairs = zip(self.source_hw, self.target_hw, strict=True)
        height, width = (min(pair) for pair in pairs)
        return height, width


def packed_hw(held: Held, asked: tuple[int, int] | None) -> tuple[int, int]:
    """The size of a domain's images in batches: as packed, as asked, else as found, with sides of
    at most `LONGEST_PX`. `JobError` for another size than is packed."""
    stored = held.packed[held.train].size_hw if held.packed else None
    if stored is not None:
        if asked is not None and asked != stored:
            raise JobError(
                f"size: expected {stored[0]} {stored[1]}, the size that {held.where} is packed "
                f"with, got {asked[0]} {asked[1]}",
                fix="leave the size out, or pass the raw folder",
            )
        return stored
    if asked is not None:
        return asked
    height, width = held.size_hw
    factor = LONGEST_PX / max(height, width)
    if factor >= 1:
        return held.size_hw
    return _rounded(height * factor), _rounded(width * factor)


def _rounded(side: float) -> int:
    return max(SIDE_STEP_PX, round(side / SIDE_STEP_PX) * SIDE_STEP_PX)


def packed_classes(space: PackedLabelSpace, values: LabelValues) -> Proposed:
    """The classes whose train ids a packed dataset's labels hold, all of them in their order."""
    row = LABEL_SPACES.get(space.name)
    colours = space.colours or (row.colours if row else None)
    own = distinct_colours().tolist()
    classes = tuple(
        ProposedClass(
            name,
            tuple(colours[number] if colours else own[number]),
            (number,),
            (number,),
            values.share(number),
        )
        for number, name in enumerate(space.classes)
    )
    return Proposed(classes, (255,), space.name, coloured=False)


def check_count(classes: Proposed, source: Held) -> None:
    """`JobError` where the labels have fewer than two classes."""
    if len(classes.classes) < 2:
        raise JobError(
            f"{source.where}: expected labels of 2 classes or more, got "
            f"{counted(len(classes.classes), 'class') if classes.classes else 'none'}",
            fix="check that labels/ holds the labels, and which values --ignore names",
        )


def scored_part(
    held: Held, uri: str, out: Path, size_hw: tuple[int, int]
) -> tuple[Scored | None, tuple[Packing, ...], dict[str, list[str]]]:
    """The split to score the target on, the packings of the target, and the lists that they skip.

    A labelled split that is not trained on is taken as it is. Else labelled images are kept from
    training: all where most images have none, else the last `HELD_OUT` of them, which are the last
    frames where names count frames.
    """
    train = held.train
    other = next((split for split in held.splits if split != train and split in held.labelled), "")
    whole = () if held.packed else (Packing(held, uri, train, size_hw, labelled=False),)
    if other:
        packing = None if held.packed else Packing(held, uri, other, None, labelled=True)
        extra = () if packing is None else (packing,)
        return Scored(uri, other, packing), (*whole, *extra), {}
    kept = held_out(held)
    if not kept:
        return None, whole, {}
    rest = [key for key in held.keys if key not in set(kept)]
    lists = {VAL_LIST: kept, TRAIN_LIST: rest}
    scored_uri = f"{uri}_val"
    both = (
        Packing(held, uri, train, size_hw, labelled=False, skip_file=str(out / VAL_LIST)),
        Packing(held, scored_uri, train, None, labelled=True, skip_file=str(out / TRAIN_LIST)),
    )
    return Scored(scored_uri, train, both[1]), both, lists


def held_out(held: Held) -> list[str]:
    """Keys of the labelled images of the split to train on that are kept for validation; at least
    one image is left to train on."""
    labelled, total = list(held.labelled_keys), len(held.keys)
    if not labelled or total < 2:
        return []
    if len(labelled) <= total / 2:
        return labelled
    return labelled[-max(1, round(HELD_OUT * len(labelled))) :]


def uris_of(packed: str, source: Held, target: Held) -> tuple[str, str]:
    """Where both domains are packed: where they are already, else below `packed` by their names."""
    first = source.where if source.packed else join(packed, source.name)
    second = target.where if target.packed else join(packed, target.name)
    return first, f"{second}_target" if second == first and not target.packed else second
