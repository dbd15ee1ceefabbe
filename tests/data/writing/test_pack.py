"""Packing: the contents of shards, the same bytes on any number of workers, resuming after a stop,
labels stored as train ids.
"""

import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed.inspect import read_sample
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import PackingProgress, pack
from adapt.errors import DataError, JobError
from adapt.spec.job_spec import JobSpec
from adapt.trainer.opening import open_split
from storage.errors import StoreError
from storage.shards.cache import ShardCache
from storage.shards.shards import checksums
from storage.store import Store
from storage.stores import Stores, open_store
from tests.conftest import TINY_CLASSES, write_raw_folders
from tests.data.stored import MakeRaw, objects

SMALL_SHARDS = 2_000
"""Two samples of 18x32 pixels a shard."""


def watcher(
    seen: list[PackingProgress], stop_at: int | None = None
) -> Callable[[PackingProgress], None]:
    """An `on_progress` that notes, and raises once `stop_at` samples are done."""

    def on_progress(progress: PackingProgress) -> None:
        seen.append(progress)
        if stop_at is not None and progress.done >= stop_at:
            raise KeyboardInterrupt

    return on_progress


def test_shards_are_plain_tars_with_true_checksums(
    make_raw: MakeRaw, store: Store, tmp_path: Path
) -> None:
    pack("cityscapes", make_raw("cityscapes", 5), store, "train", shard_bytes=SMALL_SHARDS)
    manifest, index = read_manifest(store, "train")
    names = []
    for shard in manifest.shards:
        path = tmp_path / shard.name
        store.get_file(f"train/{shard.name}", path)
        assert checksums(path) == (shard.sha256, shard.xxh3)
        assert path.stat().st_size == shard.size_bytes
        with tarfile.open(path) as archive:
            names += archive.getnames()
    keys = index.keys.tolist()
    assert names == [f"{key}.{kind}" for key in keys for kind in ("img.qoi", "lbl.zst")]
    assert sum(shard.num_samples for shard in manifest.shards) == 5


@pytest.mark.parametrize("place", ["raw", "raw/packed", "."])
def test_the_store_is_apart_from_the_raw_folder(place: str, tmp_path: Path) -> None:
    """In Python as at the command line: the next packing would take shards for raw files."""
    write_raw_folders(tmp_path / "raw", 2, seed=1)
    store = open_store((tmp_path / place).as_uri())
    with pytest.raises(JobError, match="URI: expected a folder apart from the raw folder"):
        pack("folders", tmp_path / "raw", store, "train")
    assert not list(tmp_path.rglob("*.tar"))


def test_nothing_but_shards_index_and_manifest_remains(make_raw: MakeRaw, store: Store) -> None:
    manifest = pack("gta5", make_raw("gta5", 4), store, "train", shard_bytes=SMALL_SHARDS)
    expected = {"train/manifest.json", "train/index.npz"}
    assert objects(store).keys() == expected | {f"train/{shard.name}" for shard in manifest.shards}


def test_workers_do_not_change_a_byte(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw_dir = make_raw("gta5", 9)
    packed = []
    for workers in (1, 4):
        store = open_store(str(tmp_path / f"packed-{workers}"))
        pack("gta5", raw_dir, store, "train", shard_bytes=SMALL_SHARDS, workers=workers)
        packed.append(objects(store))
    assert packed[0] == packed[1] and len(packed[0]) > 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_packing_goes_on(make_raw: MakeRaw, tmp_path: Path, workers: int) -> None:
    raw_dir = make_raw("gta5", 40, size_hw=(90, 160))
    settings = {"shard_bytes": 60_000, "workers": workers}
    whole, broken = (open_store(str(tmp_path / name)) for name in ("whole", "broken"))
    pack("gta5", raw_dir, whole, "train", **settings)  # type: ignore[arg-type]
    interrupted = pack_until_a_record(raw_dir, broken, settings)
    assert interrupted and "train/manifest.json" not in objects(broken)
    with pytest.raises(DataError, match=r"let an interrupted pack finish"):
        read_manifest(broken, "train")
    seen: list[PackingProgress] = []
    pack("gta5", raw_dir, broken, "train", **settings, on_progress=watcher(seen))  # type: ignore[arg-type]
    assert 0 < seen[0].reused < 40 and seen[0] == PackingProgress(
        seen[0].reused, 40, seen[0].reused
    )
    assert seen[-1] == PackingProgress(40, 40, seen[0].reused)
    assert objects(broken) == objects(whole)


def pack_until_a_record(raw_dir: Path, store: Store, settings: dict[str, int]) -> bool:
    """Stop a packing as soon as one shard's record is there; whether it was stopped."""
    put, lock, records = store.put, threading.Lock(), list[str]()

    def stop_after_record(key: str, data: bytes) -> None:
        with lock:
            if not records:
                put(key, data)
            records.append(key)
        raise KeyboardInterrupt

    store.put = stop_after_record  # type: ignore[method-assign]
    try:
        pack("gta5", raw_dir, store, "train", **settings)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        return True
    finally:
        store.put = put  # type: ignore[method-assign]
    return False


def test_raising_in_on_progress_stops_at_once(
    make_raw: MakeRaw, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapt.data.workers.POLL_S", 0.001)
    raw_dir = make_raw("gta5", 30)
    with pytest.raises(KeyboardInterrupt):
        pack("gta5", raw_dir, store, "train", shard_bytes=1, workers=1, on_progress=watcher([], 1))
    assert len(objects(store)) < 60
    pack("gta5", raw_dir, store, "train", shard_bytes=1, workers=1)
    assert read_manifest(store, "train")[0].num_samples == 30


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["record", "plan", "shard"])
def test_records_that_do_not_fit_are_not_trusted(
    damage: str, make_raw: MakeRaw, tmp_path: Path
) -> None:
    raw_dir = make_raw("gta5", 40, size_hw=(90, 160))
    settings = {"shard_bytes": 60_000, "workers": 1}
    store = open_store(str(tmp_path / "packed"))
    assert pack_until_a_record(raw_dir, store, settings)
    record = next(key for key in objects(store) if key.endswith(".json"))
    if damage == "record":
        store.put(record, b'{"rows": [[1]]}')
    if damage == "shard":
        store.put(record.replace(".json", ".tar"), b"short")
    seen: list[PackingProgress] = []
    seed = 1 if damage == "plan" else 0
    pack("gta5", raw_dir, store, "train", **settings, seed=seed, on_progress=watcher(seen))  # type: ignore[arg-type]
    assert seen[-1] == PackingProgress(40, 40, 0)


def test_a_complete_packing_is_left_alone(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    first = pack("gta5", raw_dir, store, "train")
    before, seen = objects(store), list[PackingProgress]()
    assert pack("gta5", raw_dir, store, "train", on_progress=watcher(seen)) == first
    assert seen == [PackingProgress(3, 3, 3)] and objects(store) == before


def test_another_packing_needs_overwrite(make_raw: MakeRaw, store: Store, tmp_path: Path) -> None:
    raw_dir = make_raw("gta5", 9)
    pack("gta5", raw_dir, store, "train", shard_bytes=SMALL_SHARDS)
    before = objects(store)
    with pytest.raises(JobError, match=r"size_hw is null there, \[9, 16\] requested.*--overwrite"):
        pack("gta5", raw_dir, store, "train", size_hw=(9, 16))
    with pytest.raises(JobError, match=r"other raw files, ids of the classes, seed or shard size"):
        pack("gta5", raw_dir, store, "train", seed=1)
    assert objects(store) == before
    pack("gta5", raw_dir, store, "train", size_hw=(9, 16), overwrite=True)
    fresh = open_store(str(tmp_path / "fresh"))
    pack("gta5", raw_dir, fresh, "train", size_hw=(9, 16))
    kept = {key: content for key, content in objects(store).items() if "/versions/" not in key}
    assert kept == objects(fresh)


def test_an_older_format_is_packed_again_with_overwrite(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    first = pack("gta5", raw_dir, store, "train")
    content = first.model_copy(update={"format_version": 1}).canonical_json()
    store.put("train/manifest.json", content)
    with pytest.raises(DataError, match=r"got 1\. Fix: pack the split again \(--overwrite\)"):
        pack("gta5", raw_dir, store, "train")
    assert pack("gta5", raw_dir, store, "train", overwrite=True) == first


def test_the_name_and_unlabelled_reach_the_manifest(make_raw: MakeRaw, store: Store) -> None:
    manifest = pack("folders", make_raw("folders"), store, "train", name="airsim", unlabelled=True)
    assert manifest.dataset == "airsim" and not manifest.labelled and not manifest.id_pixels
    _, index = read_manifest(store, "train")
    assert not index.label_length_bytes.any() and index.id_pixels.shape == (3, 0)


@pytest.mark.parametrize("name", ["a b/..", "..", ".hidden", "a/b", "a\nb", "", "x" * 101, "-a"])
def test_names_that_no_dataset_has_are_refused(name: str, make_raw: MakeRaw, store: Store) -> None:
    with pytest.raises(JobError, match=r"--name: expected .*letters, digits, .*Fix: name it as"):
        pack("folders", make_raw("folders"), store, "train", name=name)
    assert objects(store) == {}


def test_a_name_that_looks_like_a_key_is_refused(make_raw: MakeRaw, store: Store) -> None:
    with pytest.raises(JobError, match=r"^--name: expected no secret, got what looks like an AWS"):
        pack("folders", make_raw("folders"), store, "train", name="AKIAIOSFODNN7EXAMPLE")


@pytest.mark.parametrize("name", ["my_town-2.1", "città", "街景"])
def test_names_have_letters_of_any_alphabet(name: str, make_raw: MakeRaw, store: Store) -> None:
    assert pack("folders", make_raw("folders"), store, "train", name=name).dataset == name


@pytest.mark.parametrize(
    ("split", "fix"), [("../val", "val"), ("my val", "my_val"), ("/", "train")]
)
def test_splits_that_are_no_names_get_one(
    split: str, fix: str, make_raw: MakeRaw, store: Store
) -> None:
    with pytest.raises(
        JobError, match=rf"--split: .* Fix: name it '{fix}', and its list {fix}.txt"
    ):
        pack("folders", make_raw("folders"), store, split)


def test_unknown_ids_are_named(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("camvid")
    Image.new("L", (32, 18), 77).save(raw_dir / "trainannot" / "00001.png")
    with pytest.raises(
        DataError, match=r"00001.png: expected ids from 0 to 11 in the label, got 77\."
    ):
        pack("camvid", raw_dir, store, "train")


def test_a_failing_store_is_named(make_raw: MakeRaw, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=str(tmp_path / "file")):
        pack("gta5", make_raw("gta5"), open_store(str(tmp_path / "file" / "packed")), "train")


@pytest.mark.parametrize("unlabelled", [False, True])
def test_each_sample_has_the_checksum_of_its_bytes(
    unlabelled: bool, make_raw: MakeRaw, store: Store
) -> None:
    raw_dir = make_raw("gta5", 5)
    pack("gta5", raw_dir, store, "train", shard_bytes=SMALL_SHARDS, unlabelled=unlabelled)
    manifest, index = read_manifest(store, "train")
    for row in range(5):
        shard = store.get(f"train/{manifest.shards[index.shard[row]].name}")
        image, label = (int(index.image_offset_bytes[row]), int(index.label_offset_bytes[row]))
        data = shard[image : image + int(index.image_length_bytes[row])]
        data += shard[label : label + int(index.label_length_bytes[row])]
        assert int(index.xxh3[row]) == xxhash.xxh3_64_intdigest(data)


@pytest.mark.parametrize("size_hw", [None, (9, 16), (40, 50)])
@pytest.mark.parametrize(
    ("dataset", "classes"),
    [("gta5", "cityscapes19"), ("synthia", "cityscapes16"), ("camvid", "camvid11")],
)
def test_labels_packed_as_train_ids_are_those_mapped_when_read(
    dataset: str, classes: str, size_hw: tuple[int, int] | None, make_raw: MakeRaw, tmp_path: Path
) -> None:
    raw_dir, space = make_raw(dataset), LABEL_SPACES[classes]
    table = space.table(dataset)
    opened = []
    for name, packed_with in (("ids", None), ("train_ids", space)):
        store = open_store(str(tmp_path / name))
        pack(dataset, raw_dir, store, "train", size_hw=size_hw, label_space=packed_with)
        opened.append(PackedSplit(store, "train", ShardCache(tmp_path / "cache"), table))
    by_ids, by_train_ids = opened
    manifest = by_train_ids.manifest
    assert manifest.label_space is not None and manifest.label_space.classes == space.names
    assert manifest.label_space.name == classes and by_ids.manifest.label_space is None
    assert np.array_equal(
        by_ids.label_pixels(space.num_classes), by_train_ids.label_pixels(space.num_classes)
    )
    for sample in range(3):
        first, second = by_ids.read(sample), by_train_ids.read(sample)
        stored = read_sample(by_train_ids.store, manifest, by_train_ids.index, sample)[1]
        assert first.labels is not None and second.labels is not None and stored is not None
        assert np.array_equal(first.labels.numpy(), second.labels.numpy())
        assert np.array_equal(stored, second.labels.numpy()) and 255 in stored
        counts = np.bincount(stored.ravel(), minlength=256)
        assert by_train_ids.index.id_pixels[sample].tolist() == counts[list(manifest.ids)].tolist()


def test_another_label_space_is_another_packing(make_raw: MakeRaw, store: Store) -> None:
    raw_dir, space = make_raw("gta5"), LABEL_SPACES["cityscapes19"]
    pack("gta5", raw_dir, store, "train", label_space=space)
    with pytest.raises(JobError, match=r"label_space is cityscapes19 \(road, .*\) there, null req"):
        pack("gta5", raw_dir, store, "train")
    other = LabelSpace.model_validate(space.root[:2])
    with pytest.raises(
        JobError, match=r"there, custom \(road, sidewalk\) requested\)\. Fix: .*--o"
    ):
        pack("gta5", raw_dir, store, "train", label_space=other)
    changed = space.root[0].model_copy(update={"ids": {"gta5": (8,)}})
    swapped = LabelSpace((changed, space.root[1].model_copy(update={"ids": {"gta5": (7,)}})))
    pack("gta5", raw_dir, store, "train", label_space=other, overwrite=True)
    with pytest.raises(JobError, match=r"other raw files, ids of the classes, seed or shard"):
        pack("gta5", raw_dir, store, "train", label_space=swapped)


def test_ids_unknown_to_the_layout_are_refused_before_they_are_mapped(
    make_raw: MakeRaw, store: Store
) -> None:
    raw_dir = make_raw("camvid")
    Image.new("L", (32, 18), 77).save(raw_dir / "trainannot" / "00001.png")
    with pytest.raises(DataError, match=r"00001.png: expected ids .* got 77"):
        pack("camvid", raw_dir, store, "train", label_space=LABEL_SPACES["camvid11"])


def tiny_split(
    tiny_job: dict[str, Any], tmp_path: Path, classes: list[Any], labelled: bool = True
) -> PackedSplit:
    """The tiny job's source, packed as train ids of its classes, opened for a job of `classes`."""
    write_raw_folders(tmp_path / "raw", 4, seed=2)
    space = LabelSpace.model_validate(TINY_CLASSES)
    store = open_store(str(tmp_path / "packed"))
    pack("folders", tmp_path / "raw", store, "train", name="tiny", label_space=space)
    source = {**tiny_job["source"], "uri": str(tmp_path / "packed")}
    job = JobSpec.model_validate({**tiny_job, "classes": classes, "source": source})
    return open_split(job, job.source, Stores(), ShardCache(tmp_path / "cache"), labelled)


def test_a_job_reads_labels_packed_for_its_classes(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    split = tiny_split(tiny_job, tmp_path, TINY_CLASSES)
    labels = split.read(0).labels
    assert labels is not None and set(labels.unique().tolist()) == {0, 1, 2, 3}


def test_a_job_of_other_classes_is_refused(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    swapped = [TINY_CLASSES[index] for index in (1, 0, 2, 3)]
    message = r"packed/train: expected labels .* band 1, band 0.*got train ids of custom \(band 0,"
    with pytest.raises(DataError, match=message):
        tiny_split(tiny_job, tmp_path, swapped)
    assert tiny_split(tiny_job, tmp_path, swapped, labelled=False).read(0).labels is None


@pytest.mark.parametrize(("kept", "there"), [(5, "5 bytes"), (None, "nothing")])
def test_a_shard_that_is_not_stored_whole_is_named(
    kept: int | None, there: str, make_raw: MakeRaw, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(self: Store, key: str, path: Path) -> None:
        if kept is not None:
            self.put(key, path.read_bytes()[:kept])

    monkeypatch.setattr(type(store), "put_file", lose)
    with pytest.raises(
        StoreError,
        match=rf"shard-00000.tar: expected the \d+ bytes that were written, got {there}: .*Fix: ",
    ):
        pack("gta5", make_raw("gta5"), store, "train")
    assert not any(key.endswith(".json") for key in objects(store))
