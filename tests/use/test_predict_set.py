"""Sets of images: the pixels of `LoadedModel.predict`, slices, resumption, bad files, stores."""

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adapt.errors import DataError, JobError
from adapt.places import Place
from adapt.use import work as module
from adapt.use.model import LoadedModel
from adapt.use.record import Record
from adapt.use.work import Progress, Writes
from storage.errors import StoreError, StoreUnavailable
from storage.local import LocalStore
from storage.stores import Stores
from tests.use.conftest import files_in, network, predicted, shares_in, write_images

EVERY_KIND = "overlay,colours,ids,probabilities,entropy"


def test_every_output_equals_predict_to_the_last_bit(photos: Path, tmp_path: Path) -> None:
    summary = predicted([photos], tmp_path / "out", write=EVERY_KIND, ids_of="cityscapes")
    assert (summary.images, summary.skipped, summary.bad) == (8, 0, [])
    out, model = tmp_path / "out", network()
    rows = {row["name"]: row for row in shares_in(out)}
    assert len(files_in(out)) == 8 * 5 + 1 and list(rows) == sorted(rows)
    for path in sorted(photos.rglob("*.png")):
        name, one = path.relative_to(photos).with_suffix("").as_posix(), model.predict(path)
        expected = {
            "overlay": one.overlay(),
            "colours": one.class_map,
            "ids": one.ids("cityscapes"),
        }
        for kind, pixels in expected.items():
            written = np.array(Image.open(out / kind / f"{name}.png"))
            assert np.array_equal(written, pixels), (kind, name)
        colours = Image.open(out / "colours" / f"{name}.png").convert("RGB")
        assert np.array_equal(np.array(colours), one.colours)
        one.save(tmp_path / "entropy.png", "entropy")
        pair = (tmp_path / "entropy.png", out / "entropy" / f"{name}.png")
        assert np.array_equal(*(np.array(Image.open(entropy)) for entropy in pair))
        with np.load(out / "probabilities" / f"{name}.npz") as soft:
            assert soft["probabilities"].dtype == np.float16
            assert np.array_equal(soft["probabilities"], one.probabilities.astype(np.float16))
            assert tuple(soft["names"]) == model.classes.names
        shares = [float(rows[name][key]) for key in model.classes.names]
        counts = [(one.class_map == index).mean() * 100 for index in range(19)]
        assert np.allclose(shares, counts, atol=5e-5) and max(shares) < 100
        assert float(rows[name]["mean_entropy"]) == pytest.approx(one.entropy.mean(), abs=1e-5)
        assert rows[name]["frame"] == rows[name]["time_s"] == ""


def test_ids_are_train_ids_by_default(photos: Path, tmp_path: Path) -> None:
    predicted([photos / "a" / "1.png"], tmp_path / "out", write="ids")
    written = np.array(Image.open(tmp_path / "out" / "ids" / "1.png"))
    assert np.array_equal(written, network().predict(photos / "a" / "1.png").class_map)
    assert files_in(tmp_path / "out") == {"ids/1.png", "shares.csv"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"write": "overlay,colour"}, "--write: expected known names, got 'colour'; did you mean"),
        (
            {"ids_of": "cityscapes"},
            "--ids: expected ids among --write, got overlay. Fix: ",
        ),
        ({"write": "ids", "ids_of": "mars"}, "expected an id of dataset 'mars'"),
        ({"part": "3/3"}, "--slice: expected I/N with I from 0 to N - 1, got '3/3'"),
        ({"max_frames": 3}, "--frames: expected a camera among the inputs, got none"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=message):
        predicted([photos], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_written_is_refused(photos: Path) -> None:
    with pytest.raises(JobError, match="--out: expected a folder or a store that can be written"):
        predicted([photos], "https://host/out")
    with pytest.raises(JobError, match=r"--out: expected .*, got none. Fix: name a folder"):
        predicted([photos], "")


def test_slices_and_ranks_partition_the_set(photos: Path, tmp_path: Path) -> None:
    """Slices of slices too: two jobs of two nodes each; whichever ends last writes all lines."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    predicted([photos], whole)
    counts = []
    for part in ("1/2", "0/2"):
        for node in (1, 0):
            place = Place("indexed_job", {}, tmp_path, node=node, num_nodes=2)
            counts.append(predicted([photos], parts, part=part, place=place).images)
    assert counts == [2, 2, 2, 2]
    assert files_in(parts) == files_in(whole)
    assert (parts / "shares.csv").read_bytes() == (whole / "shares.csv").read_bytes()
    uneven = [predicted([photos], tmp_path / f"{n}", part=f"{n}/3").images for n in range(3)]
    assert sorted(uneven) == [2, 3, 3]


def test_what_is_written_whole_is_skipped(photos: Path, tmp_path: Path) -> None:
    out, calls = tmp_path / "out", list[Progress]()
    predicted([photos], out)
    before = (out / "overlay" / "a" / "1.png").stat().st_mtime_ns
    (out / "overlay" / "b" / "2.png").unlink()
    write_images(photos, ["new.png"])
    summary = predicted([photos], out, on_progress=calls.append)
    assert (summary.images, summary.skipped) == (2, 7)
    assert calls[-1] == Progress(2, 2, 0)
    assert (out / "overlay" / "a" / "1.png").stat().st_mtime_ns == before
    assert len(shares_in(out)) == 9 == len({row["name"] for row in shares_in(out)})
    more = predicted([photos], out, write="overlay,ids")
    assert (more.images, more.skipped) == (9, 0), "ids are wanted too"
    again = predicted([photos], out, overwrite=True)
    assert again.images == 9 and len(shares_in(out)) == 9


@pytest.mark.parametrize("content", [b"\0" * 99, b"\n\n", b"a,,\n", b"a" * 200_000])
def test_damaged_rows_are_named_and_their_images_predicted_again(
    content: bytes, photos: Path, tmp_path: Path
) -> None:
    """As after a loss of power."""
    out = tmp_path / "out"
    predicted([photos], out)
    (part,) = (out / ".segadapt" / "rows").rglob("*.csv")
    part.write_bytes(content)
    with pytest.raises(DataError, match=r"\.csv: expected rows of predictions, got .* Fix: remove"):
        predicted([photos], out)
    part.unlink()
    assert predicted([photos], out).images == 8 == len(shares_in(out))


def test_commands_of_two_networks_at_once_are_not_mixed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find a folder without settings: the second to store its own is refused. One that is
    overwritten while it works says so."""
    out, other = tmp_path / "out", network(seed=6)
    stored = Record._stored

    def late(record: Record) -> bytes | None:
        found = stored(record)
        monkeypatch.undo()
        predicted([photos / "a"], out, model=other)
        return found

    monkeypatch.setattr(Record, "_stored", late)
    with pytest.raises(JobError, match=r"--out: expected a folder of predictions with model .*got"):
        predicted([photos], out)

    def overwritten(_progress: Progress) -> None:
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            predicted([photos / "a"], out, overwrite=True)

    with pytest.raises(JobError, match=r"--out: expected .* to this command alone, got .* model "):
        predicted([photos], out, model=other, on_progress=overwritten)


def test_another_network_s_predictions_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predicted([photos / "a"], out)
    other = network(seed=6)
    with pytest.raises(JobError, match=r"--out: expected a folder of predictions with model .*got"):
        predicted([photos], out, model=other)
    own = network()
    own.size_hw = None
    with pytest.raises(JobError, match=r"predictions with size_hw None, got \[16, 24\]"):
        predicted([photos], out, model=own)
    assert predicted([photos / "b"], out, model=other, overwrite=True).images == 4
    assert [row["name"] for row in shares_in(out)] == ["0", "2", "4", "6"]


def test_bad_files_are_named_and_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "page.png").write_bytes(b"<html>")
    (photos / "empty.jpg").touch()
    (photos / "b" / "back\\slash.png").write_bytes((photos / "a" / "1.png").read_bytes())
    (photos / "link.png").symlink_to("nowhere.png")
    calls = list[Progress]()
    summary = predicted([photos], tmp_path / "out", on_progress=calls.append)
    assert summary.images == 8 and calls[-1] == Progress(10, 10, 3)
    bad = {Path(problem.path).name: problem.text for problem in summary.bad}
    assert bad["page.png"] == "corrupt image: a web page in place of the file"
    assert bad["empty.jpg"] == "corrupt image: the file is empty"
    assert "without '..'" in bad["back\\slash.png"] and "nowhere.png" in bad["link.png"]
    write_images(photos, ["a/page.png"])
    again = predicted([photos], tmp_path / "out")
    assert (again.images, again.skipped, len(again.bad)) == (1, 8, 3)


def test_images_without_finite_logits_are_bad(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the same pass are not."""
    own = LoadedModel.predict_prepared

    def refusing(self: LoadedModel, images: Any, *more: Any) -> Any:
        if any(image.name.endswith("3.png") for image in images):
            raise DataError(f"{photos}/a/3.png: expected finite logits, got NaN or infinity")
        return own(self, images, *more)

    monkeypatch.setattr(LoadedModel, "predict_prepared", refusing)
    monkeypatch.setattr(module.Work, "together", lambda self, images: iter([list(images)]))
    summary = predicted([photos], tmp_path / "out")
    assert summary.images == 7
    assert [problem.text for problem in summary.bad] == [
        "expected finite logits, got NaN or infinity"
    ]


def test_an_unreachable_store_ends_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are not bad; the rows of those that are written are kept."""
    own = LoadedModel.prepare

    def failing(self: LoadedModel, image: Any, name: str) -> Any:
        if name.endswith("b/2.png"):
            raise StoreUnavailable("s3://bucket: unreachable")
        return own(self, image, name)

    monkeypatch.setattr(LoadedModel, "prepare", failing)
    with pytest.raises(StoreUnavailable):
        predicted([photos], tmp_path / "out")
    monkeypatch.undo()
    again = predicted([photos], tmp_path / "out")
    assert (again.images, again.skipped) == (3, 5)


def test_files_that_cannot_be_written_end_the_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LocalStore.put

    def full(self: LocalStore, key: str, data: bytes) -> None:
        if key.endswith("b/2.png"):
            raise StoreError(f"{key}: the disk is full")
        own(self, key, data)

    monkeypatch.setattr(LocalStore, "put", full)
    with pytest.raises(StoreError, match="the disk is full"):
        predicted([photos], tmp_path / "out")


def test_a_stop_ends_between_two_images_and_the_same_work_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAITING_BYTES", 1)  # no image is far ahead of its file
    stop = Event()

    def after_three(progress: Progress) -> None:
        if progress.done == 3:
            stop.set()

    first = predicted([photos], tmp_path / "out", stop=stop, on_progress=after_three)
    assert first.stopped and 3 <= first.images < 8
    assert len(shares_in(tmp_path / "out")) == first.images
    second = predicted([photos], tmp_path / "out")
    assert (second.images, second.skipped, second.stopped) == (
        8 - first.images,
        first.images,
        False,
    )
    predicted([photos], tmp_path / "whole")
    shares = [(tmp_path / name / "shares.csv").read_bytes() for name in ("out", "whole")]
    assert shares[0] == shares[1]


def test_a_packed_split_is_predicted_as_its_images(tiny_uri: str, tmp_path: Path) -> None:
    place = Place("local", {}, tmp_path / "scratch")
    options = {"split": "train", "write": "ids", "place": place}
    counts = [
        predicted([tiny_uri], tmp_path / "out", part=f"{part}/2", **options).images
        for part in range(2)
    ]
    assert counts == [11, 11]
    model = network()
    raw = Path(tiny_uri).parent / "train" / "images"
    for path in sorted(raw.glob("*.png")):
        written = np.array(Image.open(tmp_path / "out" / "ids" / path.name))
        assert np.array_equal(written, model.predict(path).class_map), path


@pytest.mark.slow
def test_a_prefix_of_a_store_to_a_store(
    photos: Path, s3_stores: Stores, s3_uri: str, tmp_path: Path
) -> None:
    store = s3_stores.open(s3_uri)
    for path in photos.rglob("*.png"):
        store.put_file(f"photos/{path.relative_to(photos).as_posix()}", path)
    store.put("photos/bad.png", b"<html>")
    store.put("photos/notes.txt", b"notes")
    out = f"{s3_uri}/seen"
    summary = predicted([f"{s3_uri}/photos"], out, stores=s3_stores, write="ids")
    assert summary.images == 8 and [one.path for one in summary.bad] == [f"{s3_uri}/photos/bad.png"]
    assert summary.left_out == {"files that are no images or videos (.txt)": 1}
    keys = {entry.key for entry in store.list("seen/") if ".segadapt" not in entry.key}
    assert len(keys) == 9 and "seen/ids/a/1.png" in keys
    again = predicted([f"{s3_uri}/photos/*/*.png"], out, stores=s3_stores, write="ids")
    assert (again.images, again.skipped, again.bad) == (0, 8, [])
    predicted([photos], tmp_path / "here", write="ids")
    for path in files_in(tmp_path / "here"):
        assert store.get(f"seen/{path}") == (tmp_path / "here" / path).read_bytes(), path
    one = predicted([f"{s3_uri}/photos/a/1.png"], f"{out}-one", stores=s3_stores)
    assert one.images == 1 and store.exists("seen-one/overlay/1.png")


def test_results_that_wait_for_their_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING_BYTES", 100)
    writes, release, taken = Writes(2), Event(), list[int]()
    writes.add(60, lambda: release.wait(10) and 1, taken.append)
    writes.add(40, lambda: 2, taken.append)
    assert taken == []
    release.set()
    writes.add(60, lambda: 3, taken.append)
    assert taken[:1] == [1], "the oldest was waited for"
    writes.close()
    assert taken == [1, 2, 3]


def test_images_of_a_pass_are_bounded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU by their pixels and number, on the CPU one at a time."""
    model = network()
    images = [(number, model.prepare(photos / "a" / "1.png", "1")) for number in range(40)]
    work = module.Work(model, Stores(), None, None, None)  # type: ignore[arg-type]
    assert [len(chunk) for chunk in work.together(images)] == [1] * 40
    model.device = type("Gpu", (), {"type": "cuda"})()  # type: ignore[assignment]
    assert [len(chunk) for chunk in work.together(images)] == [16, 16, 8]
    monkeypatch.setattr(module, "_PIXELS_TOGETHER", 3 * images[0][1].pixels.size // 3)
    assert [number for chunk in work.together(images) for number, _ in chunk] == list(range(40))
    assert {len(chunk) for chunk in work.together(images)} == {3, 1}
