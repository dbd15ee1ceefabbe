"""`verify`: every kind of damage is found and named, each fault of many, and nothing else."""

import dataclasses
import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapt.data.label_maps import LABEL_SPACES
from adapt.data.packed.codecs import encode_image, encode_label
from adapt.data.packed.encodings import ENCODINGS
from adapt.data.packed.manifest import Manifest
from adapt.data.packed.split_files import read_manifest
from adapt.data.packed.verify import Verification, verify
from adapt.data.writing.pack import pack
from adapt.data.writing.plan import Slice
from adapt.errors import DataError
from storage.errors import StoreUnavailable
from storage.store import Store
from storage.stores import Stores
from tests.stream.bad_splits import resealed, rewrite, tamper, write_unchecked

MakeRaw = Callable[..., Path]


@pytest.fixture
def packed(make_raw: MakeRaw, store: Store) -> Store:
    """A store with a packed split `train` of five samples in three shards."""
    pack("cityscapes", make_raw("cityscapes", 5), store, "train", shard_bytes=2_000)
    return store


def faults_of(store: Store) -> list[str]:
    """All faults of split `train`, without the store's URI."""
    found = verify(store, "train", workers=2)
    assert all(fault.startswith(f"{store.uri}/train/") for fault in found.faults)
    return [fault.removeprefix(f"{store.uri}/train/") for fault in found.faults]


def replace_shard(store: Store, number: int, data: bytes, reseal: bool = True) -> None:
    """Other bytes for a shard; with `reseal` its line in the manifest says that they are right."""
    manifest, index = read_manifest(store, "train")
    shards = list(manifest.shards)
    store.put(f"train/{shards[number].name}", data)
    if reseal:
        info = resealed(shards[number], data).model_copy(update={"size_bytes": len(data)})
        shards[number] = info
    changed = manifest.model_copy(update={"shards": tuple(shards)})
    write_unchecked(store, changed, index.to_bytes())


def rebuilt(store: Store, number: int, change: Callable[[list[tarfile.TarInfo]], None]) -> bytes:
    """A shard written anew with other headers; the data stand where they stood."""
    manifest, _ = read_manifest(store, "train")
    data = store.get(f"train/{manifest.shards[number].name}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
    content = {id(one): data[one.offset_data : one.offset_data + one.size] for one in members}
    change(members)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for one in members:
            archive.addfile(one, io.BytesIO(content.get(id(one), b"")))
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("labels", ["ids", "train ids", "none"])
def test_what_pack_wrote_is_right(
    encoding: str, labels: str, make_raw: MakeRaw, store: Store
) -> None:
    space = LABEL_SPACES["cityscapes19"] if labels == "train ids" else None
    pack(
        "gta5",
        make_raw("gta5", 5),
        store,
        "train",
        encoding=encoding,
        shard_bytes=2_000,
        unlabelled=labels == "none",
        label_space=space,
    )
    seen: list[tuple[int, int]] = []
    found = verify(store, on_progress=lambda done, total: seen.append((done, total)))
    shards = [entry.size_bytes for entry in store.list("train/shard-")]
    expected = Verification(store.uri, ("train",), len(shards), 5, sum(shards), ())
    assert found == expected and seen[-1] == (5, 5)
    found.refuse()


@pytest.mark.slow
def test_all_splits_on_a_real_object_store(
    make_raw: MakeRaw, s3_stores: Stores, s3_uri: str
) -> None:
    store, raw_dir = s3_stores.open(s3_uri), make_raw("camvid", 3)
    (raw_dir / "train").rename(raw_dir / "val")
    (raw_dir / "trainannot").rename(raw_dir / "valannot")
    make_raw("camvid", 2)
    for split in ("train", "val"):
        pack("camvid", raw_dir, store, split)
    found = verify(store)
    assert (found.splits, found.num_samples, found.faults) == (("train", "val"), 5, ())
    store.delete("val/shard-00000.tar")
    faults = verify(store, workers=1).faults
    assert faults == (f"{s3_uri}/val/shard-00000.tar: is missing",)
    assert verify(store, "train").faults == ()


def test_a_split_that_is_not_there_is_a_fault(packed: Store) -> None:
    (fault,) = verify(packed, "val").faults
    assert "val/manifest.json: expected the file, got none" in fault


def test_where_nothing_is_packed(store: Store) -> None:
    with pytest.raises(DataError, match=r"packed: expected a packed split, got none"):
        verify(store)


@pytest.mark.parametrize("place", ["image", "header", "padding"])
def test_one_flipped_bit_is_named(place: str, packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    shard, row = manifest.shards[1].name, int(np.searchsorted(index.shard, 1))
    data = bytearray(packed.get(f"train/{shard}"))
    start = int(index.image_offset_bytes[row])
    offset = {"image": start + 700, "header": start - 500, "padding": len(data) - 1}[place]
    data[offset] ^= 1
    packed.put(f"train/{shard}", bytes(data))
    faults = faults_of(packed)
    assert faults[0].startswith(f"{shard}: sha256: expected {manifest.shards[1].sha256}, got ")
    assert faults[1].startswith(f"{shard}: xxh3: expected {manifest.shards[1].xxh3}, got ")
    key = index.keys[row]
    if place == "image":
        assert any(fault.startswith(f"{shard}: {key}: xxh3: expected ") for fault in faults)
    if place == "header":
        assert any("cannot be read as a tar" in fault for fault in faults)
    assert place != "padding" or len(faults) == 2


def test_slices_share_the_shards_out(packed: Store) -> None:
    whole = verify(packed, "train")
    slices = [verify(packed, "train", part=Slice(number, 4)) for number in range(4)]
    assert [one.num_shards for one in slices] == [1, 1, 1, 0]
    assert sum(one.num_samples for one in slices) == whole.num_samples
    assert sum(one.size_bytes for one in slices) == whole.size_bytes
    packed.delete("train/shard-00001.tar")
    damaged = [verify(packed, part=Slice(number, 4)).faults for number in range(4)]
    assert [len(faults) for faults in damaged] == [0, 1, 0, 0]
    assert damaged[1] == verify(packed).faults


def test_a_truncated_shard_is_named(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    shard = manifest.shards[0]
    packed.put(f"train/{shard.name}", packed.get(f"train/{shard.name}")[:1500])
    faults = faults_of(packed)
    assert faults[0] == f"{shard.name}: size: expected {shard.size_bytes} bytes, got 1500 bytes"
    keys = [str(key) for key in index.keys[index.shard == 0]]
    assert [f"{shard.name}: {key}: lies beyond the shard's end" for key in keys] == faults[-2:]


def test_a_sample_that_is_another_s_is_named(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    xxh3 = index.xxh3.copy()
    xxh3[2] += 1
    rewrite(packed, xxh3=xxh3)
    name = f"shard-{index.shard[2]:05d}.tar: {index.keys[2]}"
    assert faults_of(packed) == [f"{name}: xxh3: expected {xxh3[2]:016x}, got {xxh3[2] - 1:016x}"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("image", "the image cannot be decoded as qoi"),
        ("label", "the label cannot be decoded as zstandard"),
    ],
)
def test_what_does_not_decode_is_named(part: str, message: str, packed: Store) -> None:
    key = str(read_manifest(packed, "train")[1].keys[3])
    tamper(packed, [key], part, lambda data: b"\xff" * len(data))
    (fault,) = faults_of(packed)
    assert f"{key}: {message}" in fault


def test_a_picture_of_another_size_is_named(packed: Store) -> None:
    key = str(read_manifest(packed, "train")[1].keys[0])
    other = encode_image(np.zeros((9, 16, 3), np.uint8), "qoi")
    tamper(packed, [key], "image", lambda data: other + data[len(other) :])
    (fault,) = faults_of(packed)
    assert f"{key}: expected an image of [18, 32] pixels" in fault and "got [9, 16]" in fault


def test_other_counts_of_ids_are_named(packed: Store) -> None:
    manifest, index = read_manifest(packed, "train")
    counts = index.id_pixels.copy()
    counts[0, 0] += 3
    totals = dict(zip(manifest.ids, counts.sum(axis=0).tolist(), strict=True))
    changed = manifest.model_copy(update={"id_pixels": totals})
    index = dataclasses.replace(index, id_pixels=counts)
    write_unchecked(packed, changed, index.to_bytes())
    message = f"label: expected {counts[0, 0]} pixels of id 0, got {counts[0, 0] - 3}"
    assert faults_of(packed) == [f"shard-00000.tar: {index.keys[0]}: {message}"]


def rename(members: list[tarfile.TarInfo]) -> None:
    members[1].name = "other.lbl.zst"


def link(members: list[tarfile.TarInfo]) -> None:
    members[0].type, members[0].linkname = tarfile.SYMTYPE, "/etc/passwd"


def swap(members: list[tarfile.TarInfo]) -> None:
    members[0].name, members[1].name = members[1].name, members[0].name


def append(members: list[tarfile.TarInfo]) -> None:
    members += [tarfile.TarInfo("../../escape")] * 3


def repeat(members: list[tarfile.TarInfo]) -> None:
    members.insert(0, tarfile.TarInfo(members[0].name))


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            rename,
            ["is not in the tar as a plain file", "member 'other.lbl.zst' is not in the index"],
        ),
        (swap, [r"expected at 512 +", "got "]),
        (append, ["member '../../escape' is not in the index"]),
        (repeat, ["got 1024 +"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_members_that_a_tar_reader_would_miss_are_named(
    change: Callable[[list[tarfile.TarInfo]], None], messages: list[str], packed: Store
) -> None:
    replace_shard(packed, 0, rebuilt(packed, 0, change))
    faults = faults_of(packed)
    for message in messages:
        assert any(
            fault.startswith("shard-00000.tar: member") and message in fault for fault in faults
        )


def test_links_are_named(packed: Store) -> None:
    key = read_manifest(packed, "train")[1].keys[0]
    replace_shard(packed, 0, rebuilt(packed, 0, link))
    message = f"member '{key}.img.qoi' is not in the tar as a plain file"
    assert f"shard-00000.tar: {message}" in faults_of(packed)


def test_members_twice_or_in_another_order_are_named(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    rows = np.flatnonzero(index.shard == 0)
    order = np.concatenate([rows[::-1], np.arange(len(rows), len(index))])
    changed = {field.name: getattr(index, field.name)[order] for field in dataclasses.fields(index)}
    rewrite(packed, **changed)
    message = "its members stand in another order than in the index, or twice"
    assert faults_of(packed) == [f"shard-00000.tar: {message}"]


def test_keys_that_webdataset_would_cut_are_named(
    make_raw: MakeRaw, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shards of other programs may have them."""
    whole_names = lambda path, ending: path.as_posix().removesuffix(ending)  # noqa: E731
    monkeypatch.setattr("adapt.data.raw_files.key_of", whole_names)
    raw_dir = make_raw("cityscapes", 2)
    for path in list(raw_dir.rglob("ulm_00000_*")):
        path.rename(path.with_name(path.name.replace("ulm_00000", "ulm.00000")))
    pack("cityscapes", raw_dir, store, "train")
    message = "a WebDataset reader ends its key at the first dot"
    assert faults_of(store) == [f"shard-00000.tar: ulm.00000: {message}"]


def test_broken_manifests_and_indexes_are_faults_of_their_split(packed: Store) -> None:
    packed.put("train2/manifest.json", b"{")
    found = verify(packed)
    assert found.splits == ("train", "train2") and found.num_samples == 5
    assert (
        len(found.faults) == 1
        and "train2/manifest.json: expected a manifest, got a damaged or other file"
        in found.faults[0]
    )
    packed.put("train/index.npz", b"junk")
    assert len(verify(packed).faults) == 2


def test_ten_faults_are_shown_and_all_are_counted(make_raw: MakeRaw, store: Store) -> None:
    pack("gta5", make_raw("gta5", 12), store, "train", shard_bytes=1)
    for entry in list(store.list("train/shard-")):
        store.delete(entry.key)
    seen: list[tuple[int, int]] = []
    found = verify(store, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert len(found.faults) == 12 and found.faults == tuple(sorted(found.faults))
    with pytest.raises(DataError) as caught:
        found.refuse()
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{store.uri}: 12 faults in train:" and len(lines) == 12
    assert "... and 2 more" in lines[-1] and "--overwrite" in lines[-1]


def test_a_store_that_fails_is_no_fault(packed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object) -> None:
        raise StoreUnavailable("s3://bucket: does not answer")

    monkeypatch.setattr(type(packed), "get_file", away)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        verify(packed)


def test_memory_is_bounded_by_a_sample(make_raw: MakeRaw, store: Store) -> None:
    manifest = pack("gta5", make_raw("gta5", 12, size_hw=(300, 400)), store, "train")
    assert isinstance(manifest, Manifest) and manifest.shards[0].size_bytes > 4_000_000
    tracemalloc.start()
    verify(store, workers=1)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 3_500_000


def test_random_headers_are_faults_not_crashes(packed: Store) -> None:
    manifest, _ = read_manifest(packed, "train")
    data, rng = packed.get(f"train/{manifest.shards[0].name}"), np.random.default_rng(5)
    for _ in range(60):
        changed = bytearray(data)
        for place in rng.integers(0, 512, 3):
            changed[place] = rng.integers(0, 256)
        changed[148:156] = checksum_of(changed)
        packed.put(f"train/{manifest.shards[0].name}", bytes(changed))
        assert all("shard-00000.tar: " in fault for fault in faults_of(packed))


def checksum_of(header: bytearray) -> bytes:
    """What a tar's first header has to say of itself."""
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:512])
    return b"%06o\0 " % total


def test_a_label_of_another_size_is_named(packed: Store) -> None:
    _, index = read_manifest(packed, "train")
    other = encode_label(np.zeros((2, 2), np.uint8))
    tamper(packed, [str(index.keys[1])], "label", lambda data: other + data[len(other) :])
    (fault,) = faults_of(packed)
    assert "expected a label of 18x32 = 576 pixels, got 4" in fault
