"""`pack --to` and `verify --to`: the whole way on a platform whose jobs run in this process, and
the requests of every platform."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapt.cli.pack_options import slice_here
from adapt.data.packed.split_files import read_manifest
from adapt.data.writing import merge as merging
from adapt.data.writing.merge import merge_if_all
from adapt.data.writing.pack import pack
from adapt.data.writing.plan import Slice
from adapt.errors import JobError
from adapt.platforms import PLATFORMS
from adapt.platforms.prediction import DataJobs, SetUri
from storage.errors import MissingObject
from storage.local import LocalStore
from tests.cli.test_cli_data import write_raw_folders
from tests.commands import Ended, call
from tests.platforms.predict_samples import PROFILES, profile
from tests.platforms.test_predict_jobs import Pretend, platform

__all__ = ["platform"]  # the fixture

VERIFY = DataJobs(
    name="verify-gta5-261130-120000",
    words=("verify", "s3://my-bucket/gta5", "--split", "train"),
    uris=(SetUri("URI", "s3://my-bucket/gta5"),),
    num_slices=2,
    slices=(0, 1),
)
PACK = DataJobs(
    name="pack-gta5-261130-120000",
    words=("pack", "gta5", "/raw/gta5", "s3://my-bucket/gta5", "--merge"),
    uris=(
        SetUri("RAW_DIR", "/raw/gta5", path=True),
        SetUri("URI", "s3://my-bucket/gta5", written=True),
    ),
    num_slices=2,
    slices=(0, 1),
)
MOUNTS = {
    "docker": "mounts=[{source: /nfs/raw, target: /raw, read_only: true}]",
    "kubernetes": "volumes=[{claim: raw, mount_path: /raw}]",
    "slurm": "mounts=[{source: /nfs/raw, target: /raw, read_only: true}]",
}


def run(folder: Path, *words: object) -> Ended:
    return call(*words, "--to", "pretend.yaml", "--yes", folder=folder)


def pack_words(folder: Path) -> tuple[object, ...]:
    options = ("--shard-mb", "0.003", "--size-hw", 24, 32)
    return ("pack", "folders", folder / "raw", folder / "packed", *options)


@pytest.mark.slow
def test_slices_pack_and_verify_as_one_command_would(platform: Pretend, tmp_path: Path) -> None:
    write_raw_folders(tmp_path / "raw", 14, seed=1)
    sent = run(tmp_path, *pack_words(tmp_path), "--slices", 3, "--json")
    assert sent.code == 0, sent.err
    packing = dict(platform.ended)
    assert [one["job"] for one in json.loads(sent.out)["jobs"]] == [*packing] and len(packing) == 3
    assert all(ended.code == 0 for ended in packing.values())
    assert [("Run `merge`" in ended.err) for ended in packing.values()] == [True, True, False]
    pack("folders", tmp_path / "raw", whole := LocalStore(str(tmp_path / "whole")), "train",
         size_hw=(24, 32), shard_bytes=3_000)  # fmt: skip
    found, _ = read_manifest(LocalStore(str(tmp_path / "packed")), "train")
    expected, _ = read_manifest(whole, "train")
    assert found == expected
    for fact in ("pretend, 3 jobs x CPU", f"reads {tmp_path}/raw", f"writes {tmp_path}/packed"):
        assert fact.replace(" ", "") in "".join(sent.err.split()), sent.err
    again = run(tmp_path, *pack_words(tmp_path), "--slice", "1/3")
    assert again.code == 0 and len(platform.ended) == 4
    assert [*platform.ended.values()][-1].code == 0, "it is packed already"
    (tmp_path / "packed/train/shard-00001.tar").unlink()
    platform.ended.clear()
    assert run(tmp_path, "verify", tmp_path / "packed", "--slices", 2).code == 0
    assert [ended.code for ended in platform.ended.values()] == [0, 4]


@pytest.mark.parametrize("platform_name", PROFILES)
def test_every_platform_verifies(platform_name: str) -> None:
    found = PLATFORMS[platform_name].predict(VERIFY, PROFILES[platform_name]())
    assert json.loads(json.dumps(found)) == found
    assert len(found) == (1 if platform_name == "kubernetes" else 2)
    text = yaml.safe_dump(found, width=10_000)
    assert "s3://my-bucket/gta5" in text and "--split" in text and "predict" not in text
    assert ("1/2" in text) is (platform_name != "kubernetes")
    local = VERIFY._replace(uris=(SetUri("URI", "packed"),))
    with pytest.raises(JobError, match=r"^URI: expected the URI of a store"):
        PLATFORMS[platform_name].predict(local, PROFILES[platform_name]())


@pytest.mark.parametrize("platform_name", PROFILES)
def test_raw_folders_are_packed_where_they_are_mounted(platform_name: str) -> None:
    row, bare = PLATFORMS[platform_name], PROFILES[platform_name]()
    with pytest.raises(JobError, match=r"RAW_DIR: expected a path") as raised:
        row.predict(PACK, bare)
    assert "mount" in raised.value.fix
    if platform_name in MOUNTS:
        mounted = profile(platform_name, "gpus=0", MOUNTS[platform_name])
        assert "/raw/gta5" in yaml.safe_dump(row.predict(PACK, mounted), width=10_000)
        inside = PACK._replace(uris=(PACK.uris[0], SetUri("URI", "/raw/packed", written=True)))
        with pytest.raises(JobError, match=r"^URI: expected the URI of a store"):
            row.predict(inside, mounted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slices", 2], "--slices: expected --to beside it, got none"),
        (["--set", "gpus=0"], "--set: expected --to beside it, got none"),
        (["--to", "x.yaml", "--overwrite"], "--overwrite: expected none beside --to"),
        (["--merge", "--overwrite"], "--overwrite: expected none beside --merge"),
        (["--to", "x.yaml", "--skip-file", "list"], "--skip-file: expected no file of this mach"),
        (["--to", "x.yaml", "--classes", "a.yaml"], "--classes: expected no file of this machine"),
    ],
)
def test_what_jobs_could_not_do_is_refused(words: list[Any], said: str, tmp_path: Path) -> None:
    ended = call("pack", "folders", "raw", "packed", *words, folder=tmp_path)
    assert ended.code == 2 and said in ended.err


def test_pods_share_the_shards_out_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slice_here("1/4") == Slice(1, 4)
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2", "PET_NNODES": "3"}
    for name, value in pod.items():
        monkeypatch.setenv(name, value)
    assert slice_here("0/1") == Slice(2, 3)
    assert {slice_here(f"{number}/2").number for number in range(2)} == {2, 5}


def test_a_merge_beside_another_one_takes_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw_folders(tmp_path / "raw", 6, seed=1)
    store = LocalStore(str(tmp_path / "packed"))
    settings: dict[str, Any] = {"size_hw": (24, 32), "shard_bytes": 3_000}
    pack("folders", tmp_path / "raw", store, "train", part=Slice(0, 2), **settings)
    assert merge_if_all(store, "train") is None
    others = {**settings, "seed": 3}
    pack("folders", tmp_path / "raw", store, "train", part=Slice(1, 2), **others)
    assert merge_if_all(store, "train") is None, "a shard for each number, but of two packings"
    pack("folders", tmp_path / "raw", store, "train", part=Slice(1, 2), **settings)
    real = merging.read_records

    def overtaken(*given: Any) -> Any:
        """The other one merges while this one reads."""
        monkeypatch.setattr(merging, "read_records", real)
        merging.merge(store, "train")
        raise MissingObject("shard-00000.json: is missing")

    monkeypatch.setattr(merging, "read_records", overtaken)
    found = merge_if_all(store, "train")
    assert found is not None and found == read_manifest(store, "train")[0]
    assert merge_if_all(store, "train") == found
