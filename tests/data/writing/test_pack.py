"""Packing: the contents of shards, the same bytes on any number of workers, resuming after a stop,
bad input by name.
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

from adapt.data.datasets import DATASETS
from adapt.data.label_maps import LABEL_SPACES, LabelSpace
from adapt.data.packed import codecs
from adapt.data.packed.encodings import ENCODINGS, Encoding
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

MakeRaw = Callable[..., Path]
SMALL_SHARDS = 2_000
"""Two samples of 18x32 pixels a shard."""


def objects(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list()}


def watcher(
    seen: list[PackingProgress], stop_at: int | None = None
) -> Callable[[PackingProgress], None]:
    """An `on_progress` that notes, and raises once `stop_at` samples are done."""

    def on_progress(progress: PackingProgress) -> None:
        seen.append(progress)
        if stop_at is not None and progress.done >= stop_at:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_layout_in_every_encoding(
    dataset: str, encoding: str, make_raw: MakeRaw, store: Store
) -> None:
    layout, raw_dir = DATASETS[dataset], make_raw(dataset)
    size_hw = None if encoding == "original" else (9, 16)
    pack(dataset, raw_dir, store, "train", encoding=encoding, size_hw=size_hw, workers=2)
    manifest, index = read_manifest(store, "train")
    samples = {sample.key: sample for sample in layout.pairs(raw_dir, "train")}
    assert set(index.keys.tolist()) == samples.keys() and manifest.labelled
    for row, key in enumerate(index.keys.tolist()):
        images, labels = read_sample(store, manifest, index, row)
        sample = samples[key]
        assert labels is not None and sample.label_path is not None
        raw_images = codecs.read_rgb(str(sample.image_path))
        raw_ids = layout.read_label(sample.label_path)
        if size_hw:
            raw_images = codecs.resize_image(raw_images, size_hw)
            raw_ids = codecs.resize_label(raw_ids, size_hw)
        assert np.array_equal(labels, raw_ids)
        assert images.shape == raw_images.shape
        assert encoding == "small" or np.array_equal(images, raw_images)
        counts = np.bincount(raw_ids.ravel(), minlength=256)
        assert index.id_pixels[row].tolist() == counts[list(manifest.ids)].tolist()
        assert counts.sum() == index.id_pixels[row].sum()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_row_describes_itself_and_reaches_the_manifest(
    encoding: str, make_raw: MakeRaw, store: Store
) -> None:
    assert type(ENCODINGS[encoding]).__doc__ != Encoding.__doc__
    pack("gta5", make_raw("gta5", 2), store, "train", encoding=encoding)
    manifest, _ = read_manifest(store, "train")
    assert manifest.profile == encoding and manifest.encoding is ENCODINGS[encoding]


def test_original_keeps_the_owner_s_bytes(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("folders", 2)
    jpeg_path = raw_dir / "images" / "00000.jpeg"
    Image.open(raw_dir / "images" / "00000.png").save(jpeg_path)
    (raw_dir / "images" / "00000.png").unlink()
    pack("folders", raw_dir, store, "train", encoding="original")
    manifest, index = read_manifest(store, "train")
    row = index.keys.tolist().index("00000")
    assert index.suffix[row] == "jpg"
    shard = store.get(f"train/{manifest.shards[0].name}")
    start = int(index.image_offset_bytes[row])
    assert shard[start : start + int(index.image_length_bytes[row])] == jpeg_path.read_bytes()


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


def test_the_seed_alone_decides_the_order(make_raw: MakeRaw, tmp_path: Path) -> None:
    raw_dir = make_raw("gta5", 9)
    orders = []
    for seed in (0, 1):
        store = open_store(str(tmp_path / f"packed-{seed}"))
        pack("gta5", raw_dir, store, "train", seed=seed)
        orders.append(read_manifest(store, "train")[1].keys.tolist())
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) != orders[0]


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
    with pytest.raises(JobError, match=r"size_hw is None there, \(9, 16\) requested.*--overwrite"):
        pack("gta5", raw_dir, store, "train", size_hw=(9, 16))
    with pytest.raises(JobError, match=r"other raw files, ids of the classes, seed or shard size"):
        pack("gta5", raw_dir, store, "train", seed=1)
    assert objects(store) == before
    pack("gta5", raw_dir, store, "train", size_hw=(9, 16), overwrite=True)
    fresh = open_store(str(tmp_path / "fresh"))
    pack("gta5", raw_dir, fresh, "train", size_hw=(9, 16))
    assert objects(store) == objects(fresh)


def test_an_older_format_is_packed_again_with_overwrite(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    first = pack("gta5", raw_dir, store, "train")
    content = first.model_copy(update={"format_version": 1}).canonical_json()
    store.put("train/manifest.json", content)
    with pytest.raises(DataError, match=r"got 1\. Fix: pack the split again \(--overwrite\)"):
        pack("gta5", raw_dir, store, "train")
    assert pack("gta5", raw_dir, store, "train", overwrite=True) == first


def test_changed_raw_files_are_noticed(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    pack("gta5", raw_dir, store, "train")
    Image.new("RGB", (32, 18)).save(raw_dir / "images" / "00000.png")
    with pytest.raises(JobError, match=r"other raw files"):
        pack("gta5", raw_dir, store, "train")


def test_the_name_and_unlabelled_reach_the_manifest(make_raw: MakeRaw, store: Store) -> None:
    manifest = pack("folders", make_raw("folders"), store, "train", name="airsim", unlabelled=True)
    assert manifest.dataset == "airsim" and not manifest.labelled and not manifest.id_pixels
    _, index = read_manifest(store, "train")
    assert not index.label_length_bytes.any() and index.id_pixels.shape == (3, 0)


def test_size_mismatches_and_broken_headers_are_listed_together(
    make_raw: MakeRaw, store: Store
) -> None:
    raw_dir = make_raw("gta5", 4)
    Image.new("P", (30, 18)).save(raw_dir / "labels" / "00001.png")
    (raw_dir / "images" / "00002.png").write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        pack("gta5", raw_dir, store, "train")
    message = str(caught.value)
    assert "2 bad files" in message
    assert "labels/00001.png: the label is 18x30, its image 18x32 pixels (HxW)" in message
    assert "images/00002.png: corrupt image" in message
    assert not objects(store)
    pack("gta5", raw_dir, store, "train", skip={"00001", "00002"})
    assert read_manifest(store, "train")[0].num_samples == 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_corrupt_images_are_named(encoding: str, make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5", 4)
    path = raw_dir / "images" / "00001.png"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"images/00001.png: .*(corrupt image|cannot be decoded)"):
        pack("gta5", raw_dir, store, "train", encoding=encoding, workers=2)
    assert "train/manifest.json" not in objects(store)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "../val"}, "--split: expected letters, digits"),
        ({"split": "test"}, "--split: gta5 has no such split, got 'test'"),
        ({"encoding": "exakt"}, "encoding: got 'exakt'; did you mean 'exact'"),
        (
            {"size_hw": (0, 5)},
            r"--size-hw: expected a positive height and width in pixels, got \(0, 5\)",
        ),
        (
            {"encoding": "original", "size_hw": (9, 16)},
            "--size-hw: expected no size with --original, .*Fix: leave out --size-hw",
        ),
        ({"size_hw": (1, 40_000)}, "--size-hw: expected sides of at most 32768 .*got 1x40000"),
        ({"size_hw": (20_000, 20_000)}, "268435456 pixels in all, got 20000x20000"),
        ({"shard_bytes": 0}, "--shard-mb: expected a positive size, got 0 bytes"),
        ({"shard_bytes": 2**41}, "--shard-mb: expected at most 17179, got 2199023255552 bytes"),
        (
            {"label_space": LABEL_SPACES["camvid11"]},
            "classes: expected ids for dataset 'gta5' in at least one class",
        ),
        (
            {"label_space": LABEL_SPACES["cityscapes19"], "unlabelled": True},
            "--classes: expected labels to map, got images alone",
        ),
        ({"dataset": "gta"}, "dataset: expected a raw layout, got 'gta'; did you mean 'gta5'"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, object], message: str, make_raw: MakeRaw, store: Store
) -> None:
    call = {"dataset": "gta5", "raw_dir": make_raw("gta5"), "store": store, "split": "train"}
    with pytest.raises(JobError, match=message):
        pack(**(call | arguments))  # type: ignore[arg-type]


def test_a_missing_raw_folder_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"nowhere: expected a folder with images/.*, found none\. Fix: "
    ):
        pack("gta5", tmp_path / "nowhere", store, "train")


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
    with pytest.raises(JobError, match=r"label_space is cityscapes19 \(road, .*\) there, None req"):
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


@pytest.mark.parametrize("coder", ["encode_image", "encode_label"])
def test_what_does_not_decode_to_itself_is_never_written(
    coder: str, make_raw: MakeRaw, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = getattr(codecs, coder)

    def faulty(pixels: codecs.Pixels, *suffix: str) -> bytes:
        changed = pixels.copy()
        changed[3, 5] ^= 1
        return encode(changed, *suffix)

    monkeypatch.setattr(codecs, coder, faulty)
    with pytest.raises(DataError, match=r"(images|labels)/0000\d.png: .* do not decode to the sa"):
        pack("gta5", make_raw("gta5"), store, "train")
    assert not objects(store)


@pytest.mark.parametrize(("kept", "there"), [(5, "5 bytes are there"), (None, "nothing is there")])
def test_a_shard_that_is_not_stored_whole_is_named(
    kept: int | None, there: str, make_raw: MakeRaw, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(self: Store, key: str, path: Path) -> None:
        if kept is not None:
            self.put(key, path.read_bytes()[:kept])

    monkeypatch.setattr(type(store), "put_file", lose)
    with pytest.raises(
        StoreError, match=rf"shard-00000.tar: \d+ bytes were written, {there}: .*Fix: "
    ):
        pack("gta5", make_raw("gta5"), store, "train")
    assert not any(key.endswith(".json") for key in objects(store))


def test_images_that_readers_would_refuse_are_not_packed(make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5")
    for folder, mode in (("images", "RGB"), ("labels", "P")):
        Image.new(mode, (32_769, 2)).save(raw_dir / folder / "00001.png")
    message = (
        r"images/00001.png: the image is 2x32769 pixels \(HxW\), expected sides of at most 32768"
    )
    with pytest.raises(DataError, match=message):
        pack("gta5", raw_dir, store, "train")


MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)


def papers_sample(
    image_path: Path, label_path: Path, size_hw: tuple[int, int], id_to_trainid: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What AdaptSegNet's and ADVENT's datasets return, written out: image (3, H, W) float32 BGR
    minus the mean, labels (H, W) float32 train ids.
    """
    height, width = size_hw
    with Image.open(image_path) as opened:
        image = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    with Image.open(label_path) as opened:
        ids = np.asarray(opened.resize((width, height), Image.Resampling.NEAREST), np.float32)
    labels = np.full(ids.shape, 255, np.float32)
    for identity, train_id in id_to_trainid.items():
        labels[ids == identity] = train_id
    pixels = np.asarray(image, np.float32)[:, :, ::-1] - MEAN_BGR
    return pixels.transpose(2, 0, 1), labels


CITYSCAPES_TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@pytest.mark.parametrize("at_pack_time", [False, True])
@pytest.mark.parametrize(
    ("dataset", "raw_hw", "size_hw"),
    [("gta5", (1052, 1914), (720, 1280)), ("cityscapes", (1024, 2048), (512, 1024))],
)
def test_exact_gives_the_papers_pixels_bit_for_bit(
    dataset: str,
    raw_hw: tuple[int, int],
    size_hw: tuple[int, int],
    at_pack_time: bool,
    make_raw: MakeRaw,
    store: Store,
    tmp_path: Path,
) -> None:
    raw_dir, space = make_raw(dataset, 1, size_hw=raw_hw), LABEL_SPACES["cityscapes19"]
    (sample,) = DATASETS[dataset].pairs(raw_dir, "train")
    packed_with = space if at_pack_time else None
    pack(dataset, raw_dir, store, "train", size_hw=size_hw, label_space=packed_with)
    split = PackedSplit(
        store, "train", ShardCache(tmp_path / "cache"), space.table(dataset), size_hw
    )
    image, labels = split.read(0)
    assert sample.label_path is not None and labels is not None
    papers = papers_sample(sample.image_path, sample.label_path, size_hw, CITYSCAPES_TRAIN_IDS)
    bgr = image.numpy()[::-1].astype(np.float32) - MEAN_BGR[:, None, None]
    assert np.array_equal(bgr, papers[0]) and np.array_equal(labels.numpy(), papers[1])


def test_genuine_cityscapes_map_exactly(shared_dir: Path, store: Store) -> None:
    raw_dir = shared_dir / "data" / "cityscapes"
    pack("cityscapes", raw_dir, store, "train", size_hw=(512, 1024), workers=2)
    manifest, index = read_manifest(store, "train")
    assert manifest.num_samples == 8 and sum(manifest.id_pixels.values()) == 8 * 512 * 1024
    golden = np.load(shared_dir / "golden" / "metrics.npz")
    official = np.full(256, 255)
    official[golden["cityscapes_map/ids"]] = golden["cityscapes_map/trainids"]
    table = LABEL_SPACES["cityscapes19"].table("cityscapes")
    samples = {sample.key: sample for sample in DATASETS["cityscapes"].pairs(raw_dir, "train")}
    for row in range(manifest.num_samples):
        sample = samples[str(index.keys[row])]
        images, labels = read_sample(store, manifest, index, row)
        assert labels is not None and sample.label_path is not None
        with Image.open(sample.image_path) as image, Image.open(sample.label_path) as label:
            papers_image = image.convert("RGB").resize((1024, 512), Image.Resampling.BICUBIC)
            papers_label = label.resize((1024, 512), Image.Resampling.NEAREST)
        assert np.array_equal(images, np.asarray(papers_image))
        assert np.array_equal(table[labels], official[np.asarray(papers_label)])


@pytest.mark.parametrize(
    ("dataset", "folder", "split"), [("camvid", "camvid", "val"), ("folders", "airsim", "train")]
)
def test_real_folders_pack(
    dataset: str, folder: str, split: str, shared_dir: Path, store: Store
) -> None:
    raw_dir = shared_dir / "data" / folder
    manifest = pack(dataset, raw_dir, store, split, encoding="small", size_hw=(36, 64), name=folder)
    assert manifest.num_samples == {"camvid": 51, "airsim": 456}[folder]
    known = {"camvid": set(range(12)), "airsim": {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 255}}[folder]
    assert set(manifest.id_pixels) <= known
