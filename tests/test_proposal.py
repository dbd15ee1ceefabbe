"""What `init` proposes: every network is a valid job, names of values, sizes, crops, held-out
images.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from adapt.data.colours import RGB
from adapt.errors import JobError
from adapt.proposal.classes import ids_of_target, propose, renamed
from adapt.proposal.held import Held
from adapt.proposal.label_values import LabelValues
from adapt.proposal.networks import NETWORKS, Network, crop_of
from adapt.proposal.plan import held_out, packed_hw, scored_part
from adapt.spec.loading import parse_spec


def values(
    pixels: Mapping[Any, int], palette: Mapping[int, RGB] = MappingProxyType({})
) -> LabelValues:
    return LabelValues(isinstance(next(iter(pixels)), tuple), pixels, palette, 1, 1)


def held(
    keys: int = 10,
    labelled: int = 0,
    size_hw: tuple[int, int] = (720, 1280),
    others: Mapping[str, int] = MappingProxyType({}),
) -> Held:
    """A camera's images, of which the first have labels; `others` are splits with labels."""
    names = tuple(f"{number:03d}" for number in range(keys))
    counts = {"train": labelled} if labelled else {}
    return Held(
        where="raw",
        name="camera",
        layout="folders",
        splits={"train": keys, **others},
        labelled={**counts, **others},
        size_hw=size_hw,
        keys=names,
        labelled_keys=names[:labelled],
    )


@pytest.mark.parametrize("network", NETWORKS, ids=lambda row: f"{row.model['encoder']}")
def test_every_network_is_a_valid_job(network: Network) -> None:
    domain = {"dataset": "gta5", "uri": "x", "batch_size": 1, "size_hw": [512, 1024]}
    sections = {"model": {**network.model}, "optim": {**network.optim}, "train": {**network.train}}
    job = parse_spec(
        {
            "classes": "cityscapes19",
            "source": domain,
            "target": domain,
            "method": {"name": "dacs"},
            "checkpoint": {"uri": "runs"},
            "tracking": {"experiment": "e"},
            **sections,
        },
        default_name="x",
    )
    assert job.model.encoder == network.model["encoder"] and network.batches and network.steps


def test_networks_end_with_one_for_the_cpu() -> None:
    assert [row.needs_gpu for row in NETWORKS].index(False) == len(NETWORKS) - 1
    assert NETWORKS[-1].in_package


@pytest.mark.parametrize(
    ("size_hw", "most", "crop"),
    [((1052, 1914), 512, (512, 512)), ((300, 700), 512, (288, 512)), ((40, 63), 256, (40, 63))],
)
def test_crops_are_whole_strides_within_the_images(
    size_hw: tuple[int, int], most: int, crop: tuple[int, int]
) -> None:
    assert crop_of(size_hw, most) == crop


def test_sizes_are_kept_but_for_large_images() -> None:
    assert packed_hw(held(), None) == (720, 1280)
    assert packed_hw(held(size_hw=(1052, 1914)), None) == (704, 1280)
    assert packed_hw(held(size_hw=(1052, 1914)), (360, 640)) == (360, 640)


def test_ids_have_the_names_of_their_dataset_and_its_void_is_ignored() -> None:
    found = propose(values({7: 60, 26: 30, 0: 9, 255: 1}), "cityscapes")
    assert [(one.name, one.ids, one.share) for one in found.classes] == [
        *(("road", (7,), 0.6), ("car", (26,), 0.3)),
    ]
    assert set(found.ignored) == {0, 255} and found.named_by == "cityscapes"


def test_unknown_ids_and_colours_have_numbers() -> None:
    found = propose(values({9: 1, 3: 5, 255: 1}), None, ignored=[3])
    assert [(one.name, one.ids) for one in found.classes] == [("class_9", (9,))]
    colours = propose(values({(1, 2, 3): 1, (0, 0, 0): 5, (9, 9, 9): 7}), None)
    assert [(one.name, one.values, one.ids) for one in colours.classes] == [
        ("class_0", ((9, 9, 9),), (0,)),
        ("class_1", ((1, 2, 3),), (1,)),
    ]
    assert colours.ignored == ((0, 0, 0),) and not colours.named_by


def test_a_palette_names_ids_by_its_colours() -> None:
    palette = {0: (128, 64, 128), 5: (0, 0, 142), 6: (1, 1, 1)}
    found = propose(values({0: 5, 5: 3, 6: 2}, palette=palette), None)
    assert [(one.name, one.ids) for one in found.classes] == [("road", (0,)), ("car", (5,))]
    assert found.ignored == (6,) and found.named_by == "cityscapes19"


def test_targets_are_matched_by_name_or_by_value() -> None:
    source = propose(values({7: 1, 8: 1, 24: 1}), "cityscapes")
    target = propose(values({3: 1, 4: 1, 9: 1}), "camvid")
    assert ids_of_target(source, target) == {"road": (3,), "sidewalk": (4,), "person": (9,)}
    plain = propose(values({7: 1, 9: 1}), None)
    assert ids_of_target(source, plain) == {"road": (7,), "sidewalk": (), "person": ()}


def test_names_are_one_for_each_class() -> None:
    found = propose(values({1: 1, 2: 1}), None)
    assert [one.name for one in renamed(found, ["a", "b"]).classes] == ["a", "b"]
    with pytest.raises(JobError, match=r"--names: expected 2 names, one a class, got 1\. Fix: "):
        renamed(found, ["a"])
    with pytest.raises(JobError, match=r"--names: expected a name for each class, got 'a' twice"):
        renamed(found, ["a", "a"])


@pytest.mark.parametrize(
    ("keys", "labelled", "kept"),
    [(10, 0, []), (10, 2, ["000", "001"]), (10, 10, ["008", "009"]), (1, 1, [])],
)
def test_labelled_images_are_held_out(keys: int, labelled: int, kept: list[str]) -> None:
    assert held_out(held(keys, labelled)) == kept


def test_a_labelled_split_that_is_not_trained_on_is_scored() -> None:
    one = held(others={"val": 3})
    scored, packings, lists = scored_part(one, "packed/camera", Path("job"), (72, 128))
    assert scored is not None and (scored.uri, scored.split) == ("packed/camera", "val")
    assert [(p.split, p.size_hw, p.labelled) for p in packings] == [
        ("train", (72, 128), False),
        ("val", None, True),
    ]
    assert lists == {}
