"""Versions of a packed split: kept, tagged, found, compared."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.packed.split_files import packed_splits, read_manifest
from adapt.data.packed.verify import verify
from adapt.data.packed.versions import difference, find, index_of, keep, versions
from adapt.data.writing.pack import pack
from adapt.errors import DataError, JobError
from storage.store import Store

MakeRaw = Callable[..., Path]


@pytest.fixture
def raw_dir(make_raw: MakeRaw, store: Store) -> Path:
    """A raw folder of four samples of two ids, packed."""
    folder = make_raw("folders", 4)
    for path in (folder / "labels").iterdir():
        ids = np.zeros((18, 32), np.uint8)
        ids[:9] = 1
        Image.fromarray(ids).save(path)
    pack("folders", folder, store, "train", name="town")
    return folder


def change(raw_dir: Path) -> None:
    """One sample goes, one comes, one gets another label, one another image."""
    for part in ("images", "labels"):
        (raw_dir / part / "00000.png").rename(raw_dir / part / "00009.png")
    Image.fromarray(np.zeros((18, 32), np.uint8)).save(raw_dir / "labels" / "00001.png")
    Image.new("RGB", (32, 18), (9, 9, 9)).save(raw_dir / "images" / "00002.png")


def test_what_overwriting_replaces_is_kept_and_compared(raw_dir: Path, store: Store) -> None:
    first = keep(store, "train", "raw", "as downloaded")
    change(raw_dir)
    pack("folders", raw_dir, store, "train", name="town", overwrite=True)
    before, after = versions(store, "train")
    assert (before.id, before.tags, before.note) == (first.id, ("raw",), "as downloaded")
    assert (before.there, after.there, after.tags) == (False, True, ())
    assert after.id == read_manifest(store, "train")[0].dataset_id != before.id
    sides = [(one.manifest, index_of(store, "train", one)) for one in (before, after)]
    found = difference(sides[0], sides[1])
    assert (found.added, found.removed) == (("00009",), ("00000",))
    assert (found.relabelled, found.changed) == (("00001",), ("00002",))
    assert found.settings == {} and not found.equal
    assert found.shares == {"id 0": (0.5, 0.625), "id 1": (0.5, 0.375)}
    assert difference(sides[0], sides[0]).equal


def test_overwriting_keeps_a_version_that_has_no_tag(raw_dir: Path, store: Store) -> None:
    change(raw_dir)
    pack("folders", raw_dir, store, "train", name="town", overwrite=True)
    before, _ = versions(store, "train")
    assert before.note == "replaced by pack --overwrite" and before.kept_at


def test_versions_are_no_splits_and_no_faults(raw_dir: Path, store: Store) -> None:
    keep(store, "train", "raw")
    assert packed_splits(store) == ["train"]
    verify(store).refuse()


def test_a_tag_moves_and_ids_are_found_by_their_beginning(raw_dir: Path, store: Store) -> None:
    old = keep(store, "train", "best")
    change(raw_dir)
    pack("folders", raw_dir, store, "train", name="town", overwrite=True)
    new = keep(store, "train", "best", "cleaned")
    assert find(store, "train", "best").id == new.id == find(store, "train", "current").id
    assert find(store, "train", old.id[:6]).id == old.id
    assert find(store, "train", old.id).tags == ()
    with pytest.raises(JobError, match=r"expected the tag or id of a version, got 'bets'; did you"):
        find(store, "train", "bets")


@pytest.mark.parametrize("tag", ["current", "abcd12", "a b", "a/b", "a@b"])
def test_tags_that_are_no_names_are_refused(tag: str, store: Store) -> None:
    with pytest.raises(JobError, match=r"TAG: expected a name that is no id and has no @, / or"):
        keep(store, "train", tag)


def test_a_damaged_record_is_named(raw_dir: Path, store: Store) -> None:
    store.put("train/versions/0123456789ab.json", b"{}")
    with pytest.raises(DataError, match=r"0123456789ab.json: expected the record of a version"):
        versions(store, "train")
