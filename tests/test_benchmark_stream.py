"""The streaming benchmark's data, arithmetic and pictures; what it measures is for quiet
machines."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import qoi
from PIL import Image

from adapt.data.packed import codecs
from adapt.data.packed.packed_split import PackedSplit
from adapt.stream.stream import Stream
from benchmarks import stream, stream_chart, stream_data, stream_ours, stream_peers
from benchmarks import stream_peers_env as peers_env
from storage.shards.cache import ShardCache
from storage.stores import open_store

SIZE_HW = (72, 128)
RESULTS: dict[str, Any] = {
    "load_average": [0.1, 0.2, 0.3],
    "cpus": 2,
    "data": {"exact": {"samples": 240, "shards": 6, "bytes_per_pixel": 1.504}},
    "readers": {
        "exact": {
            name: {
                "ratio": ratio,
                "ratios": [ratio - 0.01, ratio],
                "cpu_us": 5000.0,
                "first_batch_s": 0.25,
            }
            for name, ratio in {
                "webdataset": 0.80,
                "ours, cold": 0.92,
                "ours, warm": 0.96,
                "smart_open + tarfile": 0.90,
                "litdata": 0.93,
            }.items()
        }
        | {"mosaicml-streaming": {"error": "no <wheel> & no source"}}
    },
    "pairs": {"papers_ms": 160.0, "ours_ms": 8.0},
    "threads": {"exact": {"decode": 1.95, "stream": 1.85, "others_share": 0.02}},
    "memory": {
        "all fits": {"samples": 400, "growth_mb": 1.4, "peak_mb": 600.0},
        "a quarter fits": {"error": "the cache is full"},
    },
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    stream_data.write_raw(folder, stream_data.pictures(None, SIZE_HW, 5), 4)
    return folder


@pytest.fixture(scope="module", params=["exact", "small"])
def packed(raw: Path, tmp_path_factory: pytest.TempPathFactory, request: Any) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    stream_data.packed(raw, folder, request.param, SIZE_HW)
    return folder


def test_scenes_have_the_entropy_of_real_streets() -> None:
    one = stream_data.scene(1, stream_data.PACKED_HW)
    pixels = one.ids.size
    assert 1.4 < len(qoi.encode(one.image)) / pixels < 1.65
    assert 0.28 < len(codecs.encode_image(one.image, "jpg")) / pixels < 0.5
    assert (stream_ours.TABLE[np.unique(one.ids)] != 255).all()
    again = stream_data.scene(1, stream_data.PACKED_HW)
    assert np.array_equal(one.image, again.image) and np.array_equal(one.ids, again.ids)
    other = stream_data.scene(2, stream_data.PACKED_HW)
    assert not np.array_equal(one.ids, other.ids)


def test_pictures_of_the_owners_sizes_have_the_entropy_of_theirs() -> None:
    one = next(stream_data.pictures(None, (1024, 2048), 3, stream_data.OWNERS_NOISE))
    png = io.BytesIO()
    Image.fromarray(one.image).save(png, "PNG", compress_level=6)
    assert 1.0 < len(png.getvalue()) / one.ids.size < 1.2


def test_real_images_take_the_place_of_made_up_ones_and_are_mirrored(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE_HW, 3), np.uint8)
    pixels[:, :40] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    first, second = islice(stream_data.pictures(tmp_path, SIZE_HW, 3), 2)
    assert np.array_equal(first.image, pixels)
    assert np.array_equal(second.image, pixels[:, ::-1])
    assert np.array_equal(first.ids, stream_data.scene(3, SIZE_HW).ids)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--images: expected a folder with \.png or \.jpg files"):
        next(stream_data.pictures(tmp_path, SIZE_HW, 0))


def test_peers_decode_what_our_stream_hands_out(packed: Path, tmp_path: Path) -> None:
    samples = stream_peers.PackedFolder(packed / "train")
    split = PackedSplit(open_store(str(packed)), "train", ShardCache(tmp_path), stream_ours.TABLE)
    assert len(samples) == len(split) == 4
    for number in range(4):
        image, ids = stream_peers.decode(samples[number], SIZE_HW)
        ours = split.read(number)
        assert ours.labels is not None
        assert np.array_equal(ours.image.permute(1, 2, 0).numpy(), image)
        assert np.array_equal(ours.labels.numpy(), ids), "train ids are packed"
    split.close()


def test_both_ways_to_a_pair_give_the_same_pixels(raw: Path, tmp_path: Path) -> None:
    size_hw = (36, 64)
    stream_data.packed(raw, tmp_path / "packed", "exact", size_hw, own_ids=True)
    split = PackedSplit(
        open_store(str(tmp_path / "packed")), "train", ShardCache(tmp_path), stream_ours.TABLE
    )
    for number in range(4):
        ours, name = split.read(number), f"{split.key(number)}.png"
        assert ours.labels is not None
        bgr = ours.image.flip(0).numpy() - stream_ours.MEAN_BGR[:, None, None]
        assert np.array_equal(stream_ours.papers_image(raw / "images" / name, size_hw), bgr)
        labels = stream_ours.papers_label(raw / "labels" / name, size_hw)
        assert np.array_equal(labels, ours.labels.numpy())
    split.close()


@pytest.mark.parametrize(("batch_size", "epochs"), [(1, 1), (2, 2)])
def test_an_epoch_is_taken_whole_and_the_stream_closed(
    packed: Path, tmp_path: Path, batch_size: int, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Stream] = []
    monkeypatch.setattr(
        Stream, "close", lambda self, end=Stream.close: (closed.append(self), end(self))
    )
    opened = stream_ours.open_stream(str(packed), ShardCache(tmp_path), batch_size=batch_size)
    sizes = list(stream_ours.taken(opened, batch_size, epochs))
    assert sizes == [batch_size] * (4 * epochs // batch_size) and closed == [opened]


def given_of(packed: Path, tmp_path: Path) -> dict[str, Any]:
    place = {"packed": str(packed / "train"), "size_hw": SIZE_HW, "cold": True}
    caches = {"cache": str(tmp_path / "cache")}, {"cache": str(tmp_path / "warm_up")}
    return {**place, **caches[0], "warm_up": {**place, **caches[1], "few": True}}


def test_start_up_is_subtracted_from_the_cost_of_a_sample(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"s": 0.0}
    seen = []

    def reader(given: dict[str, Any]) -> Iterator[int]:
        seen.append(given["cache"])
        return steps([1] if given.get("few") else [2, 2])

    def steps(batches: list[int]) -> Iterator[int]:
        clock["s"] += 10.0
        for size in batches:
            clock["s"] += 0.5 * size
            yield size

    monkeypatch.setattr(stream_peers, "cpu_s", lambda: clock["s"])
    measured = stream_peers.measure(reader, given_of(packed, tmp_path))
    assert measured["cpu_us"] == pytest.approx(0.5e6)
    assert measured["floor_us"] == 0
    assert len(set(seen)) == stream_peers.WARM_UPS + 1, "cold means a folder of its own each time"


def test_a_reader_that_loses_samples_is_found_out(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected 4 samples, the reader gave 3"):
        stream_peers.measure(lambda given: iter([1, 2]), given_of(packed, tmp_path))


def test_workers_read_every_sample_once(packed: Path, tmp_path: Path) -> None:
    reader = stream_peers.READERS["DataLoader, 2 workers"]
    read = stream_peers.epoch(reader, given_of(packed, tmp_path))
    assert read.samples == 4 and 0 < read.first_s < 60


def test_the_least_of_the_rounds_makes_the_ratio() -> None:
    rounds = [
        {"cpu_us": 6.0, "floor_us": 5.0, "wall_us": 7.0, "first_batch_s": 0.2},
        {"cpu_us": 8.0, "floor_us": 3.0, "wall_us": 6.0, "first_batch_s": 0.3},
    ]
    found = stream.summary(rounds)
    assert found["ratio"] == 0.5 and found["ratios"] == [5 / 6, 3 / 8]
    assert (found["wall_us"], found["first_batch_s"]) == (6.0, 0.2)
    assert stream.summary([*rounds, {"error": "gone"}]) == {"error": "gone"}


def test_growth_is_counted_after_the_first_tenth() -> None:
    assert stream_ours.growth([1, 9, *[5] * 17, 7]) == -2
    assert stream_ours.growth([1, 5, *[5] * 17, 12]) == 7


def test_files_in_memory_are_counted() -> None:
    before = stream_ours.held_bytes()
    descriptor = os.memfd_create("test")
    os.write(descriptor, bytes(20_000_000))
    grown = stream_ours.held_bytes() - before
    os.close(descriptor)
    assert 20_000_000 <= grown < 60_000_000


def test_the_share_of_others_is_a_share() -> None:
    assert 0 <= stream_ours.Others().share() <= 1


def test_goals_are_ratios_of_ratios() -> None:
    found = {one.name: one for one in stream_chart.goals(RESULTS)}
    assert found["exact: ours, cold / floor"].verdict == "reached"
    assert found["exact: ours, warm / floor"].verdict == "missed"
    assert found["exact: ours, cold / webdataset"].value == pytest.approx(1.15)
    assert found["exact: ours, cold / litdata"].verdict == "reached"
    assert found["exact: ours, cold / mosaicml-streaming"].verdict == "not measured"
    assert found["papers' path / ours, a pair"].value == 20


def test_tables_say_why_something_did_not_run() -> None:
    tables = stream_chart.tables(RESULTS)
    readers = tables["stream_readers"].splitlines()
    assert readers[2] == "| exact | ours, warm | 0.96 | 0.95 to 0.96 | 5.00 | 0.25 |"
    assert readers[-1].endswith("| not run: no <wheel> & no source |")
    assert "| exact: data | 240 samples in 6 shards, 1.50 bytes a pixel |" in tables["stream_rest"]
    assert "papers 160.0 ms, ours 8.0 ms" in tables["stream_rest"]
    assert (
        "| memory, cache in which a quarter fits | not run: the cache is full |"
        in (tables["stream_rest"])
    )
    assert "+1 MB after the first tenth of 400 samples, 600 MB at most" in tables["stream_rest"]


def test_the_chart_has_every_reader_and_fills_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    page = tmp_path / stream_chart.PAGE
    page.write_text("A\n<!-- stream_goals -->\nold\n<!-- end stream_goals -->\nB\n")
    stream_chart.chart(tmp_path / "results.json", tmp_path)
    root = ElementTree.parse(tmp_path / "pictures" / stream_chart.PICTURE).getroot()
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {*RESULTS["readers"]["exact"], "0.92", "not run: no <wheel> & no source"} <= set(words)
    written = page.read_text()
    assert written.startswith("A\n") and written.endswith("\nB\n") and "\nold\n" not in written
    assert stream_chart.goal_table(RESULTS) in written
    assert "first batch (s)" in capsys.readouterr().out, "tables without a place go to the terminal"


def test_an_environment_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "pip" in command:
            return subprocess.CompletedProcess(command, 1, "", "trying\nno such package")
        (tmp_path / "odd" / "lib" / python_name() / "site-packages").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    peer = peers_env.Peer("odd", ("odd==1.0",))
    assert peers_env.ensure(tmp_path, peer) == {"error": "pip install odd==1.0: no such package"}
    lent = tmp_path / "odd" / "lib" / python_name() / "site-packages" / "lent.pth"
    assert Path(lent.read_text().strip()).is_dir()


def python_name() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def test_every_peer_has_a_reader_and_a_writer_where_it_converts() -> None:
    assert set(peers_env.PEERS) == set(stream_peers.READERS)
    converting = {name for name, peer in peers_env.PEERS.items() if peer.converts}
    assert converting == set(stream_peers.WRITERS)
    assert set(stream_chart.RIVALS) <= set(peers_env.PEERS)


def test_a_process_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    class Bench(stream.Bench):
        def __init__(self) -> None:
            self.out, self.environment = tmp_path, dict(os.environ)

    fails = [sys.executable, "-c", "import sys; print('x'); sys.exit('the reason')"]
    assert Bench().run(fails, "read", {}) == {"error": "the reason"}
    works = [sys.executable, "-c", "print('chatter'); print('{\"cpu_us\": 2}')"]
    assert Bench().run(works, "read", {"a": 1}) == {"cpu_us": 2}
    assert json.loads((tmp_path / "given.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("count", ["7", "2"])
def test_numbers_of_samples_that_cannot_be_measured_are_refused(
    count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stream.py", "measure", "--samples", count])
    with pytest.raises(SystemExit):
        stream.main()
    assert f"--samples: expected an even number over 4, got {count}" in capsys.readouterr().err
