"""A few labelled samples of the target: they join the source's batches in every method, and no
other label of the target is opened."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapt.data.packed.packed_split as reading
from adapt.batch import Batch
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing.pack import pack
from adapt.engine.engine import Engine
from adapt.errors import DataError, Interrupted, JobError
from adapt.places import Place
from adapt.trainer.opening import open_job
from storage.stores import open_store
from tests.conftest import small_method, write_raw_folders
from tests.stream.bad_splits import overwrite, rewrite
from tests.trainer.jobs import assert_same_weights, job_of, run, stopped_and_calm

LABELLED = ["003", "011", "017"]
"""Of the target's 22."""

RARE = {"sampling": "rare_classes", "rare_class_min_pixels": 100}


@pytest.fixture
def few(tiny_job: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The tiny job with its own copy of the target, of which three samples are labelled."""
    shutil.copytree(tiny_job["target"]["uri"], tmp_path / "target")
    target = {**tiny_job["target"], "uri": str(tmp_path / "target"), "labelled_keys": LABELLED}
    return {
        **tiny_job,
        "target": target,
        "stream": RARE,
        "train": {"steps": 4, "log_every_steps": 1},
    }


def spoil(uri: str, kept: list[str]) -> None:
    """Replace all labels but those of `kept` by junk that no decoder takes, and swap their counts;
    every checksum agrees."""
    store = open_store(uri)
    _, index = read_manifest(store, "train")
    others = [key for key in index.keys.tolist() if key not in kept]
    overwrite(store, others, "label")
    _, index = read_manifest(store, "train")
    counts, spoiled = index.id_pixels.copy(), ~np.isin(index.keys, kept)
    counts[spoiled] = np.roll(counts[spoiled], 1, axis=0)
    rewrite(store, id_pixels=counts)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dacs", "advent", "source_only"])
def test_the_other_labels_are_never_opened(
    few: dict[str, Any], place: Place, tmp_path: Path, method: str
) -> None:
    values = {**few, "method": small_method(method)}
    plain = job_of(values, f"checkpoint.uri={tmp_path / 'plain'}")
    _, expected = run(plain, place)
    spoil(values["target"]["uri"], LABELLED)
    spoiled = job_of(values, f"checkpoint.uri={tmp_path / 'spoiled'}")
    _, seen = run(spoiled, place)
    assert [one.losses for one in seen] == [one.losses for one in expected]
    assert_same_weights(plain, spoiled)
    with pytest.raises(DataError, match=r": 004: "):
        run(job_of(values, "target.labelled_keys=['004']", "name=other"), place)


@pytest.mark.slow
def test_labels_are_decoded_of_these_samples_alone(
    few: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, decode = [], reading.decode_label

    def noted(data: bytes, height: int, width: int, name: str) -> Any:
        decoded.append(name)
        return decode(data, height, width, name)

    monkeypatch.setattr(reading, "decode_label", noted)
    run(job_of(few, "train.steps=8", "stream.sampling=windows"), place)
    of_target = {name.rpartition(": ")[2] for name in decoded if "/target/" in name}
    assert of_target == set(LABELLED) and any("/target/" not in name for name in decoded)


@pytest.mark.slow
def test_half_of_every_labelled_batch_is_of_the_target(
    few: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, step = [], Engine.step

    def noted(self: Engine, source: Batch, target: Batch | None) -> Any:
        batches.append((source, target))
        return step(self, source, target)

    monkeypatch.setattr(Engine, "step", noted)
    run(job_of(few, "train.steps=12", "stream.sampling=windows"), place)
    sources = [source for source, _ in batches]
    assert {source.keys[1] for source in sources} == set(LABELLED)
    assert len({source.keys[0] for source in sources}) == 12, "the source's own epoch of 22"
    assert all(source.labels is not None and len(source.labels) == 2 for source in sources)
    targets = [target for _, target in batches if target is not None]
    assert len({key for target in targets for key in target.keys}) == 22, "the labelled ones too"
    assert all(target.labels is None for target in targets)


def test_the_share_is_the_spec_s(few: dict[str, Any], place: Place) -> None:
    for share in (0.5, 0.25):
        with open_job(job_of(few, f"target.labelled_share={share}"), place) as opened:
            assert opened.data.source.shares == (1 - share, share)
            assert [len(part) for part in opened.data.source.parts] == [22, 3]


@pytest.mark.parametrize("text", ["003\n\n# later\n 011\r\n017\n011", "\ufeff017\n003\n011\n"])
def test_keys_come_from_a_file_too(
    few: dict[str, Any], place: Place, tmp_path: Path, text: str
) -> None:
    (tmp_path / "few.txt").write_text(text, encoding="utf-8", newline="")
    values = with_target(few, labelled_keys=None, labelled_keys_uri=str(tmp_path / "few.txt"))
    with open_job(job_of(values), place) as opened, open_job(job_of(few), place) as listed:
        assert opened.data.source.dataset_id == listed.data.source.dataset_id


def test_a_file_without_keys_is_refused(few: dict[str, Any], place: Place, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("# none yet\n")
    job = job_of(with_target(few, labelled_keys=None, labelled_keys_uri=str(tmp_path / "few.txt")))
    with (
        pytest.raises(DataError, match=r"few.txt: expected keys of samples, one a line, got none"),
        open_job(job, place),
    ):
        pass


@pytest.mark.slow
def test_a_split_of_their_own_holds_them(few: dict[str, Any], place: Place, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 4, seed=9)
    (tmp_path / "raw" / "few.txt").write_text("000.png\n001.png\n002.png\n003.png\n")
    pack("folders", tmp_path / "raw", open_store(few["target"]["uri"]), "few", name="tiny")
    values = with_target(few, labelled_keys=None, labelled_split="few")
    spoil(values["target"]["uri"], [])
    with open_job(job_of(values), place) as opened:
        assert [part.split for part in opened.data.source.parts] == ["train", "few"]
        assert opened.data.target is not None and opened.data.target.parts[0].split == "train"
    outcome, _ = run(job_of(values), place)
    assert outcome.step == 4


@pytest.mark.slow
def test_a_stopped_job_ends_bit_identical(
    few: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    values = {**few, "method": {"name": "dacs"}}
    job, _ = stopped_and_calm(values, place, tmp_path, stops=(1, 3))
    other = with_target(
        {**values, "checkpoint": {"uri": job.checkpoint.uri}}, labelled_keys=["004"]
    )
    with pytest.raises(JobError, match=r"^target\.labelled_keys: expected \['003', '011', '017'\]"):
        run(job_of(other), place)


@pytest.mark.slow
def test_other_keys_in_the_file_are_other_samples(
    few: dict[str, Any], place: Place, tmp_path: Path
) -> None:
    (tmp_path / "few.txt").write_text("003")
    values = with_target(few, labelled_keys=None, labelled_keys_uri=str(tmp_path / "few.txt"))
    with pytest.raises(Interrupted):
        run(job_of(values), place, stop_at=2)
    (tmp_path / "few.txt").write_text("004")
    with pytest.raises(JobError, match=r"^source: expected dataset_id '"):
        run(job_of(values), place)


def with_target(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The job with changes of its target; None removes a key."""
    target = {key: one for key, one in {**values["target"], **more}.items() if one is not None}
    return {**values, "target": target}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"labelled_split": "few"},
            r"target\.labelled_keys: expected one way to name the labelled samples, got "
            r"labelled_split too\. Fix: remove labelled_split or labelled_keys",
        ),
        (
            {"labelled_keys": None, "labelled_share": 0.3},
            r"target\.labelled_share: expected 0\.5 without labelled samples, got 0\.3\. Fix: set "
            "labelled_split or labelled_keys, or leave it out",
        ),
        (
            {"labelled_keys": None, "labelled_split": "val"},
            r"target\.labelled_split: expected another split than validation\.split, got 'val' for",
        ),
        (
            {"split": "val"},
            r"target\.split: expected another split than validation\.split, got 'val' for both",
        ),
        (
            {"labelled_keys": []},
            r"target\.labelled_keys: expected at least one key, got an empty list\. Fix: list some",
        ),
        (
            {"labelled_keys": ["a", "b", "a"]},
            r"target\.labelled_keys: expected each key once, got 'a' several times\. Fix: remove",
        ),
        ({"labelled_share": 1}, r"target\.labelled_share: expected a number > 0 and < 1, got 1"),
        (
            {"size_hw": [32, 64]},
            r"source\.batch_size: expected images of one size in a rank's batch, got \[48, 64\] of "
            r"source and \[32, 64\] of labelled target\. Fix: set the same augment\.crop_hw",
        ),
    ],
)
def test_mistakes_are_named_by_key(
    tiny_job: dict[str, Any], place: Place, more: dict[str, Any], message: str
) -> None:
    uri = tiny_job["target"]["uri"]
    values = with_target(tiny_job, labelled_keys=LABELLED, uri=uri)
    with pytest.raises(JobError, match=message):
        job_of(with_target(values, **more)).check_ranks(1)
    if "size_hw" in more:
        job_of(with_target(values, **more)).check_ranks(2)


@pytest.mark.parametrize("spelling", ["{uri}/", "file://{uri}", "{uri}/../{name}", "{uri}//."])
def test_another_spelling_of_the_uri_does_not_hide_the_validation_split(
    tiny_job: dict[str, Any], spelling: str
) -> None:
    path = Path(tiny_job["target"]["uri"]).absolute()
    uri = spelling.format(uri=path, name=path.name)
    values = with_target(tiny_job, uri=uri, labelled_split="val")
    with pytest.raises(JobError, match=r"target\.labelled_split: expected another split than val"):
        job_of(values)


def test_the_labelled_target_needs_a_label_map(tiny_job: dict[str, Any]) -> None:
    values = with_target(tiny_job, dataset="camera")
    assert job_of(values).parts("source")[0].name == "source", "an unlabelled one needs none"
    with pytest.raises(JobError, match=r"target\.dataset: classes: expected ids for dataset 'cam"):
        job_of(with_target(values, labelled_keys=LABELLED))
