"""Drafts a packing before the first byte is written: checks settings, finds samples, reads all
headers, and deals the samples to shards.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from adapt.config.secrets import refuse_secrets
from adapt.data.archives import with_archives
from adapt.data.colours import ColourTable
from adapt.data.datasets import RawLayout, RawSamples, known_layout
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.encodings import ENCODINGS, EncodingName, ImageEncoding
from adapt.data.packed.manifest import MAX_SHARD_BYTES
from adapt.data.problems import BadFiles, Notes, Problem
from adapt.data.writing.plan import PackingPlan
from adapt.data.writing.survey import (
    LARGEST,
    Planned,
    Surveyed,
    as_text,
    pixel_problems,
    survey,
    too_large,
)
from adapt.errors import DataError, JobError, known_names, written

SHARD_BYTES = 64_000_000
DEFAULT_ENCODING = "exact"
NAME = r"[^\W_][\w.-]*"
MAX_NAME = 100
"""Form and length of a dataset's name: it stands in specs, manifests, metrics and messages."""


class PlanSettings(TypedDict, total=False):
    """The settings that decide the packed bytes.

    `encoding` is a row of `ENCODINGS` (default exact); `size_hw` None keeps sizes; `name` is the
    dataset's name in label spaces (default: the layout's); `unlabelled` leaves labels out; `seed`
    decides the order; `shard_bytes` is the size that shards aim at; `skip` are keys or file names
    to leave out; `pairs_only` leaves out files without partner; `colours` reads labels as colours;
    with a `label_space` the labels are stored as its train ids.
    """

    encoding: EncodingName
    size_hw: tuple[int, int] | None
    name: str | None
    unlabelled: bool
    seed: int
    shard_bytes: int
    skip: Collection[str]
    pairs_only: bool
    colours: ColourTable | None
    label_space: LabelSpace | None


class Draft(NamedTuple):
    """A plan with the faults that names and headers show. Where there are any, it holds the sound
    samples alone and is not to be packed.
    """

    raw_dir: Path
    plan: PackingPlan
    surveyed: list[Surveyed]
    problems: list[Problem]
    notes: Notes

    def refuse_faults(
        self, surveyed: Sequence[Surveyed], workers: int, on_check: Callable[[int, int], None]
    ) -> None:
        """Decode the files of these samples. `BadFiles` with their faults and those that the draft
        has.
        """
        plan, total = self.plan, len(surveyed)
        faults = pixel_problems(
            surveyed, plan.encoding, plan.read_label, workers, lambda done: on_check(done, total)
        )
        problems = [*self.problems, *faults.problems]
        if problems:
            raise BadFiles(self.raw_dir, problems, faults.unknown_colours(plan.colours))


def draft_plan(dataset: str, raw_dir: Path, split: str, **settings: Unpack[PlanSettings]) -> Draft:
    """Find the samples, read all headers, and deal the samples to shards in an order that `seed`
    alone decides.

    Raises `JobError` for wrong settings, `DataError` where nothing is found.
    """
    raw_dir = with_archives(raw_dir)
    layout, encoding = checked_settings(dataset, raw_dir, split, settings)
    samples, problems, notes = found_samples(layout, raw_dir, split, settings)
    surveyed = survey(samples, encoding)
    problems += [problem for one in surveyed for problem in one.problems]
    planned, seed = [one.planned for one in surveyed if one.planned], settings.get("seed", 0)
    planned.sort(key=lambda item: shuffle_key(seed, item.sample.key))
    notes.converted.update(reason for item in planned for reason in item.conversions)
    labelled = any(sample.label_path for sample in samples)
    check_labels(labelled or bool(problems), settings)
    size_hw, shard_bytes = settings.get("size_hw"), settings.get("shard_bytes", SHARD_BYTES)
    plan = PackingPlan(
        layout=layout,
        dataset=settings.get("name") or dataset,
        split=split,
        encoding_name=settings.get("encoding", DEFAULT_ENCODING),
        size_hw=size_hw,
        labelled=labelled,
        label_space=settings.get("label_space"),
        shards=dealt(planned, shard_bytes, encoding, size_hw),
        colours=settings.get("colours"),
    )
    return Draft(raw_dir, plan, surveyed, problems, notes)


def checked_settings(
    dataset: str, raw_dir: Path, split: str, settings: PlanSettings
) -> tuple[RawLayout, ImageEncoding]:
    """The rows that the settings name. `JobError` for settings that no packing can have,
    `DataError` for a missing folder.
    """
    encoding_name, size_hw = settings.get("encoding", DEFAULT_ENCODING), settings.get("size_hw")
    check_settings(split, encoding_name, size_hw, settings.get("shard_bytes", SHARD_BYTES))
    layout, label_space = known_layout(dataset), settings.get("label_space")
    check_name(settings.get("name"))
    check_raw_dir(dataset, layout, raw_dir, split)
    if label_space:
        label_space.table(settings.get("name") or dataset)  # refuses a dataset that it does not map
    return layout, ENCODINGS[encoding_name]


def found_samples(
    layout: RawLayout, raw_dir: Path, split: str, settings: PlanSettings
) -> RawSamples:
    """The samples of `RawLayout.find` with these settings."""
    return layout.find(
        raw_dir,
        split,
        unlabelled=settings.get("unlabelled", False),
        pairs_only=settings.get("pairs_only", False),
        skip=settings.get("skip", ()),
    )


def check_labels(labelled: bool, settings: PlanSettings) -> None:
    """`JobError` where settings are for labels and there are none."""
    for key, option in (("label_space", "--classes"), ("colours", "--colours")):
        if settings.get(key) and not labelled:
            raise JobError(
                f"{option}: expected labels to map, got images alone", fix=f"leave out {option}"
            )


def check_settings(
    split: str, encoding: str, size_hw: tuple[int, int] | None, shard_bytes: int
) -> None:
    """`JobError` for settings that no packing can have."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", split).strip("_") or "train"
        raise JobError(
            f"--split: expected a name of letters, digits, '_' and '-', got {written(split)}",
            fix=f"name it {name!r}, and its list {name}.txt",
        )
    if encoding not in ENCODINGS:
        raise JobError(f"encoding: expected a known name, {known_names(encoding, ENCODINGS)}")
    if size_hw is not None and (len(size_hw) != 2 or min(size_hw) < 1):
        raise JobError(f"--size-hw: expected a positive height and width in pixels, got {size_hw}")
    if size_hw is not None and too_large(size_hw):
        raise JobError(f"--size-hw: expected {LARGEST}, got {as_text(size_hw)}")
    ENCODINGS[encoding].check(size_hw)
    if not 1 <= shard_bytes <= MAX_SHARD_BYTES:
        expected = "a positive size" if shard_bytes < 1 else f"at most {MAX_SHARD_BYTES // 10**6}"
        raise JobError(f"--shard-mb: expected {expected}, got {shard_bytes} bytes")


def check_name(name: str | None) -> None:
    """`JobError` for a name that a dataset cannot have: manifests and metrics would show a key."""
    refuse_secrets({"--name": name or ""})
    if name is not None and not (re.fullmatch(NAME, name) and len(name) <= MAX_NAME):
        raise JobError(
            f"--name: expected at most {MAX_NAME} letters, digits, '_', '-' and '.', of which the "
            f"first is a letter or a digit, got {written(name)}",
            fix="name it as the ids of its classes in the job spec do, such as my_town",
        )


def check_raw_dir(dataset: str, layout: RawLayout, raw_dir: Path, split: str) -> None:
    """`JobError` for a split that the layout does not have, `DataError` for a missing folder."""
    if layout.splits and split not in layout.splits and not (raw_dir / f"{split}.txt").is_file():
        raise JobError(
            f"--split: expected a split of {dataset}, {known_names(split, layout.splits)}"
        )
    if not raw_dir.is_dir():
        raise DataError(
            f"{raw_dir}: expected a folder with {layout.summary}, got none",
            fix=f"pass the folder of {dataset} as it was downloaded",
        )


def dealt(
    planned: list[Planned],
    shard_bytes: int,
    encoding: ImageEncoding,
    size_hw: tuple[int, int] | None,
) -> tuple[tuple[Planned, ...], ...]:
    """Samples in order -> shards of about `shard_bytes`."""
    if not planned:
        return ()
    files_bytes = [item.image_bytes for item in planned]
    sizes_hw = [size_hw or item.size_hw for item in planned]
    count = max(1, round(shard_bytes / encoding.mean_bytes(files_bytes, sizes_hw)))
    return tuple(tuple(planned[start : start + count]) for start in range(0, len(planned), count))


def shuffle_key(seed: int, key: str) -> bytes:
    """Sorting by this is a permutation that no library's version can change."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
