"""The contract over every row of `ENCODINGS`, and the papers' pixels bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.datasets import DATASETS
from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed import codecs
from adapt.data.packed.encodings import ENCODINGS, ImageEncoding
from adapt.data.packed.inspect import read_sample
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.errors import DataError
from storage.shards.cache import ShardCache
from storage.store import Store
from tests.data.stored import MakeRaw, objects


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
    assert type(ENCODINGS[encoding]).__doc__ != ImageEncoding.__doc__
    pack("gta5", make_raw("gta5", 2), store, "train", encoding=encoding)
    manifest, _ = read_manifest(store, "train")
    assert manifest.encoding_name == encoding and manifest.encoding is ENCODINGS[encoding]


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


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_corrupt_images_are_named(encoding: str, make_raw: MakeRaw, store: Store) -> None:
    raw_dir = make_raw("gta5", 4)
    path = raw_dir / "images" / "00001.png"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"images/00001.png: .*(corrupt image|cannot be decoded)"):
        pack("gta5", raw_dir, store, "train", encoding=encoding, workers=2)
    assert "train/manifest.json" not in objects(store)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
