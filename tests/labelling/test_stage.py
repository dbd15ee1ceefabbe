"""The labelling stage on a tiny target: its splits, its restarts, its ranks, its refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapt.batch import IGNORED
from adapt.data.label_maps import LabelSpace
from adapt.data.packed.packed_split import PackedSplit
from adapt.data.packed.split_files import read_manifest
from adapt.data.packed.verify import verify
from adapt.errors import DataError, Interrupted, JobError
from adapt.evaluation.inference import WHOLE_IMAGE, EnsembleMember, predict
from adapt.labelling.passes import Stage
from adapt.labelling.stage import (
    Labels,
    digest_of,
    find_labels,
    make_labels,
    remove_rounds_before,
)
from adapt.methods.class_balanced_self_training import ClassBalanced, ClassBalancedConfig
from adapt.methods.intra_da import EasyImages, EasyImagesConfig
from adapt.methods.labeller import Labeller
from adapt.models.segmenter import Segmenter
from storage.errors import StoreError
from storage.local import LocalStore
from storage.shards.cache import ShardCache
from tests.conftest import TINY_CLASSES
from tests.networks import varied_network
from tests.rank_processes import on_ranks

CPU = torch.device("cpu")
LABELLERS: dict[str, tuple[type[Labeller], Any]] = {
    "cbst": (ClassBalanced, ClassBalancedConfig()),
    "intra_da": (EasyImages, EasyImagesConfig()),
}


def stage_of(folder: Path, uri: str, name: str = "cbst", **changes: Any) -> Stage:
    cache = ShardCache(folder / "cache")
    target = PackedSplit(LocalStore(uri), "train", cache, id_table=None)
    labeller, config = LABELLERS[name]
    classes = LabelSpace.model_validate(TINY_CLASSES)
    store = LocalStore(str(folder / "labels"))
    made = labeller(config, len(TINY_CLASSES), len(target))
    return Stage(store, target, made, classes, WHOLE_IMAGE, CPU)._replace(**changes)


def network() -> Segmenter:
    return varied_network(len(TINY_CLASSES))


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in (folder / "labels").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read(stage: Stage, split: str) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    manifest, _ = read_manifest(stage.store, split)
    table = np.arange(256, dtype=np.uint8) if manifest.labelled else None
    packed = PackedSplit(stage.store, split, stage.target.cache, table)
    for sample in range(len(packed)):
        image, labels = packed.read(sample)
        yield packed.key(sample), image.numpy(), None if labels is None else labels.numpy()


def test_every_image_comes_with_its_labels(tiny_uri: str, tmp_path: Path) -> None:
    stage, segmenter = stage_of(tmp_path, tiny_uri), network()
    labels = make_labels(stage, segmenter, "weights")
    found = list(read(stage, labels.splits["target"]))
    assert [key for key, _, _ in found] == [stage.target.key(one) for one in range(22)]
    for number, (_, image, made) in enumerate(found):
        expected = stage.target.read(number).image
        assert np.array_equal(image, expected.numpy())
        logits = predict((EnsembleMember(segmenter.eval()),), expected, image.shape[1:], CPU)
        assert made is not None
        assert np.array_equal(made, stage.labeller.labels(labels.facts, logits).numpy())
    manifest, _ = read_manifest(stage.store, labels.splits["target"])
    assert manifest.dataset == "tiny" and manifest.label_space is not None
    assert manifest.label_space.classes == stage.classes.names
    share = 1 - manifest.id_pixels[IGNORED] / sum(manifest.id_pixels.values())
    assert share == pytest.approx(0.2, abs=0.02)
    verify(stage.store).refuse()


def test_easy_images_are_labelled_and_hard_ones_are_not(tiny_uri: str, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, tiny_uri, "intra_da")
    labels = make_labels(stage, network(), "weights")
    easy, hard = (list(read(stage, labels.splits[domain])) for domain in ("source", "target"))
    assert (len(easy), len(hard)) == (14, 8), "int(0.67 x 22)"
    keys = {key for key, _, _ in (*easy, *hard)}
    assert keys == {stage.target.key(one) for one in range(22)}
    assert all(made is not None and made.max() < 4 for _, _, made in easy)
    assert all(made is None for _, _, made in hard)
    entropies = {stage.target.key(n): one for n, one in enumerate(labels.facts["entropies"])}
    assert max(entropies[key] for key, _, _ in easy) <= min(entropies[key] for key, _, _ in hard)


def test_what_is_there_is_found_and_another_network_labels_anew(
    tiny_uri: str, tmp_path: Path
) -> None:
    stage = stage_of(tmp_path, tiny_uri)
    first = make_labels(stage, network(), "weights")
    before = files_of(tmp_path)
    seen: list[int] = []
    again = stage_of(tmp_path, tiny_uri, on_image=lambda done, _total: seen.append(done))
    assert make_labels(again, network(), "elsewhere") == first and seen == []
    assert files_of(tmp_path) == before and find_labels(again, first.name) == first
    assert first.weights_uri == "weights"
    other = make_labels(stage_of(tmp_path, tiny_uri), varied_network(4, seed=9), "other")
    assert other.name != first.name and len(files_of(tmp_path)) == 2 * len(before)


def test_labels_are_named_after_all_that_decides_them(tiny_uri: str, tmp_path: Path) -> None:
    stage, segmenter = stage_of(tmp_path, tiny_uri), network()
    larger = ClassBalanced(ClassBalancedConfig(portion=0.3), 4, 22)
    moved = ClassBalanced(ClassBalancedConfig(run="another", checkpoint="last"), 4, 22)
    renamed = [{**one, "name": f"new {one['name']}"} for one in TINY_CLASSES]
    changed = [
        stage._replace(labeller=larger),
        stage._replace(views=WHOLE_IMAGE.model_copy(update={"flip": True})),
        stage._replace(classes=LabelSpace.model_validate(renamed)),
        stage_of(tmp_path, tiny_uri, "intra_da"),
    ]
    digests = {digest_of(one, segmenter) for one in (stage, *changed)}
    assert len(digests | {digest_of(stage, varied_network(4, seed=9))}) == 6
    assert digest_of(stage._replace(labeller=moved), segmenter) == digest_of(stage, segmenter)


class FailingStore(LocalStore):
    """Ends the job at its write number `left`, as a kill would."""

    left = 10**9

    def put(self, key: str, data: bytes) -> None:
        self._count()
        super().put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self._count()
        super().put_file(key, path)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreError("killed")


@pytest.mark.parametrize("name", LABELLERS)
def test_a_stage_that_ends_at_any_write_continues_to_the_same_bytes(
    name: str, tiny_uri: str, tmp_path: Path
) -> None:
    calm = stage_of(tmp_path / "calm", tiny_uri, name)
    labels = make_labels(calm, network(), "weights")
    expected, writes = files_of(tmp_path / "calm"), 0
    store = FailingStore(str(tmp_path / "stormy" / "labels"))
    while True:
        store.left = 1 + writes % 2  # each run gets one or two writes further
        stage = stage_of(tmp_path / "stormy", tiny_uri, name, store=store)
        try:
            assert make_labels(stage, network(), "weights") == labels
            break
        except StoreError:
            writes += 1
    assert writes >= 6
    assert files_of(tmp_path / "stormy") == expected


def test_finished_shards_are_not_made_again(tiny_uri: str, tmp_path: Path) -> None:
    done: list[int] = []
    stage = stage_of(tmp_path, tiny_uri, on_image=lambda one, _total: done.append(one))
    make_labels(stage, network(), "weights")
    split = next(path for path in (tmp_path / "labels").iterdir() if path.is_dir())
    assert len(done) == 44, "each image is predicted twice"
    shards = len(list(split.glob("*.tar")))
    assert shards == len(stage.target.manifest.shards) > 2
    (split / "manifest.json").unlink()
    done.clear()
    make_labels(stage, network(), "weights")
    assert len(done) == 22, "the first pass is stored; records are gone with the manifest written"


def test_a_stop_ends_the_stage_and_keeps_what_is_finished(tiny_uri: str, tmp_path: Path) -> None:
    done: list[int] = []
    stage = stage_of(tmp_path, tiny_uri, on_image=lambda one, _total: done.append(one))
    stopped = stage._replace(stopped=lambda: len(done) >= 22 + 15)
    with pytest.raises(Interrupted, match="stopped while making pseudo-labels"):
        make_labels(stopped, network(), "weights")
    kept = len(list((tmp_path / "labels").glob("*/shard-*.json")))
    assert kept >= 2 and not list((tmp_path / "labels").glob("*/manifest.json"))
    done.clear()
    labels = make_labels(stage, network(), "weights")
    assert len(done) < 22 and find_labels(stage, labels.name) == labels


def test_a_network_without_finite_logits_is_refused(tiny_uri: str, tmp_path: Path) -> None:
    broken = network()
    broken.decoder.classifier.weight.data[0] = torch.nan
    with pytest.raises(JobError, match="expected a network with finite logits on the target"):
        make_labels(stage_of(tmp_path, tiny_uri), broken, "weights")
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("name", LABELLERS)
def test_the_log_tells_what_is_labelled(
    name: str, tiny_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stage = stage_of(tmp_path, tiny_uri, name)
    labels = make_labels(stage, network(), "weights")
    (split,) = (labels.splits[domain] for domain, made in stage.labeller.labelled.items() if made)
    counts = np.zeros(256)
    for _, _, classes in read(stage, split):
        assert classes is not None
        counts += np.bincount(classes.ravel(), minlength=256)
    shares = counts[: len(TINY_CLASSES)] / counts.sum()
    told = [f"{one['name']} {share:.1%}" for one, share in zip(TINY_CLASSES, shares, strict=True)]
    assert f"pseudo-labels: {shares.sum():.1%} of the pixels: {', '.join(told)}" in caplog.text


def test_labels_of_no_pixel_are_refused_also_on_a_restart(tiny_uri: str, tmp_path: Path) -> None:
    config = ClassBalancedConfig(portion=1e-12)
    labeller = ClassBalanced(config, len(TINY_CLASSES), 22)
    stage = stage_of(tmp_path, tiny_uri, labeller=labeller)
    for _ in range(2):
        with pytest.raises(JobError, match="for some of the target's pixels, got none"):
            make_labels(stage, network(), "weights")


def test_labels_without_a_manifest_are_not_found(tiny_uri: str, tmp_path: Path) -> None:
    stage = stage_of(tmp_path, tiny_uri)
    labels = make_labels(stage, network(), "weights")
    stage.store.delete(f"{labels.splits['target']}/manifest.json")
    assert find_labels(stage, labels.name) is None
    assert find_labels(stage, "round-0-none") is None


def test_rounds_that_no_checkpoint_can_need_are_removed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for number in (0, 1, 2):
        for file in (f"round-{number}-a.json", f"round-{number}-a-all/manifest.json"):
            store.put(file, b"x")
    remove_rounds_before(store, 1)
    left = {info.key.split("-")[1] for info in store.list()}
    assert left == {"1", "2"}


def share_of_the_stage(rank: int, num_ranks: int, uri: str, folder: Path, name: str) -> Labels:
    stage = stage_of(folder, uri, name, rank=rank, num_ranks=num_ranks)
    return make_labels(stage, network(), "weights")


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELLERS)
def test_ranks_make_the_labels_of_one(name: str, tiny_uri: str, tmp_path: Path) -> None:
    alone = make_labels(stage_of(tmp_path / "one", tiny_uri, name), network(), "weights")
    folder = tmp_path / "two"
    folder.mkdir()
    found = on_ranks(2, folder, share_as_json, tiny_uri, folder, name)
    assert found == [json.dumps(alone), json.dumps(alone)]
    assert files_of(folder) == files_of(tmp_path / "one")


def share_as_json(rank: int, num_ranks: int, uri: str, folder: Path, name: str) -> str:
    return json.dumps(share_of_the_stage(rank, num_ranks, uri, folder, name))


def test_labels_of_another_target_are_refused(tmp_path: Path, tiny_uri: str) -> None:
    stage = stage_of(tmp_path, tiny_uri)
    labels = make_labels(stage, network(), "before")
    other = PackedSplit(LocalStore(tiny_uri), "val", stage.target.cache, id_table=None)
    with pytest.raises(DataError, match="expected pseudo-labels of the job's target, got those of"):
        find_labels(stage._replace(target=other), labels.name)
