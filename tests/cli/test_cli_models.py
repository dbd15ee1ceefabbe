"""The command `models` as users run it: what it lists and describes, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from adapt.cli import network_counts
from adapt.cli.network_counts import describe_architecture, describe_encoder, fitting_encoders
from adapt.cli.network_facts import (
    LISTED_CLASSES,
    LISTED_HW,
    Architecture,
    EncoderChoice,
    listed_networks,
)
from adapt.models import ARCHITECTURES, ENCODERS
from adapt.models.costs import encoder_without_memory
from adapt.models.demands import PYRAMID, Demands
from adapt.models.encoders.encoder import Encoder
from adapt.models.encoders.timm import TESTED_ENCODERS
from adapt.models.encoders.vit import LISTED_VITS
from tests.commands import Ended, call, finish, start_python
from tests.tiers import one_in

pytestmark = pytest.mark.xdist_group("models")  # the tables are counted once
FEW = {
    "ARCHITECTURES": {name: ARCHITECTURES[name] for name in ("deeplab_v2", "icnet", "bisenet")},
    "ENCODERS": {name: ENCODERS[name] for name in ("frrn_a", "mit_b0")},
    "TESTED_ENCODERS": ("resnet18", "pnasnet5large"),
    "LISTED_VITS": ("vit_pe_spatial_tiny_patch16_512",),
}
"""Rows that are counted here: all take minutes."""
FEW_ENCODERS = [*FEW["ENCODERS"], *FEW["TESTED_ENCODERS"], *FEW["LISTED_VITS"]]
SIZE = ("--size", "64x128")
PYRAMID_8 = ("--output-stride", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def listings(folder: Path) -> tuple[Ended, Ended]:
    """The tables and the same as JSON at another size, of a few rows, each counted once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, rows in FEW.items():
            patch.setattr(network_counts, name, rows)
        for describe in (describe_architecture, describe_encoder):
            patch.setattr(network_counts, describe.__name__, once(describe))
        return call("models", *SIZE, folder=folder), call("models", *SIZE, "--json", folder=folder)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its earlier results for the same arguments."""
    results: dict[str, Any] = {}

    def remembered(*arguments: Any) -> Any:
        if repr(arguments) not in results:
            results[repr(arguments)] = function(*arguments)
        return results[repr(arguments)]

    return remembered


@pytest.fixture(scope="module")
def listing(listings: tuple[Ended, Ended]) -> Ended:
    assert listings[0].code == 0, listings[0].err
    return listings[0]


@pytest.fixture(scope="module")
def facts(listings: tuple[Ended, Ended]) -> dict[str, Any]:
    assert listings[1].code == 0, listings[1].err
    return json.loads(listings[1].out)


def described(folder: Path, *more: str) -> dict[str, Any]:
    ended = call("models", *more, *SIZE, "--json", folder=folder)
    assert ended.code == 0 and ended.err == "", ended.err
    return json.loads(ended.out)


def cells(text: str) -> list[list[str]]:
    """The cells of each line of a table."""
    lines = [line.replace("┃", "│") for line in text.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


@pytest.mark.slow
def test_counted_networks_have_their_numbers(listing: Ended, facts: dict[str, Any]) -> None:
    rows = cells(listing.out)
    assert [one["name"] for one in facts["architectures"]] == list(FEW["ARCHITECTURES"])
    assert [one["name"] for one in facts["encoders"]] == FEW_ENCODERS
    for one in facts["architectures"]:
        costs = [str(one["output_stride"]), *cost_cells(one)]
        head = f"main {one['heads']['main']:g}"
        assert [one["name"], one["encoder"], *costs, head] in rows
    for one in facts["encoders"]:
        strides = ", ".join(map(str, one["output_strides"]))
        strides += " (pyramid)" if one["pyramid_strides"] else ""
        channels = ", ".join(str(stage["channels"]) for stage in one["stages"])
        numbers = [one["licence"] or "-", strides, *cost_cells(one), channels]
        named = [row[0] for row in rows if row[1:] == numbers]
        assert any((one["weights"] or one["name"]).startswith(name) for name in named)


def cost_cells(one: dict[str, Any]) -> list[str]:
    return [f"{one['parameters'] / 1e6:.2f}", f"{one['macs'] / 1e9:.2f}"]


@pytest.mark.slow
def test_listed_numbers_are_the_known_ones(listing: Ended, facts: dict[str, Any]) -> None:
    architectures = {one["name"]: one for one in facts["architectures"]}
    assert architectures["deeplab_v2"]["parameters"] == 44_601_560
    assert architectures["bisenet"]["heads"] == {"main": 1, "aux_8": 1, "aux_16": 1}
    assert architectures["icnet"]["heads"] == {"main": 1, "aux_8": 0.4, "aux_16": 0.16}
    encoders = {one["name"]: one for one in facts["encoders"]}
    resnet = encoders["resnet18"]
    assert (resnet["parameters"], resnet["output_strides"]) == (11_176_512, [8, 16, 32])
    assert (resnet["weights"], resnet["licence"]) == ("resnet18.tv_in1k", "bsd-3-clause")
    assert encoders["pnasnet5large"]["output_strides"] == [32]
    vit = encoders["vit_pe_spatial_tiny_patch16_512"]
    assert (vit["output_strides"], vit["pyramid_strides"]) == ([16], [8, 16, 32])
    assert encoders["frrn_a"]["output_strides"] == [16] and encoders["frrn_a"]["weights"] is None
    assert "Any other backbone of timm" in " ".join(listing.out.split())
    total = len(FEW["ARCHITECTURES"]) + len(FEW_ENCODERS)
    assert f"{total}/{total}" in listing.err


def test_size_and_classes_change_the_costs(folder: Path) -> None:
    usual = described(folder, "--architecture", "unet")
    more = described(folder, "--architecture", "unet", "--classes", "20")
    assert more["parameters"] - usual["parameters"] == (64 + 1) + (256 + 1)
    assert more["macs"] - usual["macs"] == 64 * 64 * 128 + 256 * 16 * 32
    ended = call("models", "--architecture", "unet", "--size", "128x256", "--json", folder=folder)
    larger = json.loads(ended.out)
    assert larger["size_hw"] == [128, 256] and larger["macs"] == 4 * usual["macs"]


def test_one_network_is_described(folder: Path) -> None:
    values = ("--architecture", "pspnet", "--encoder", "resnet18", "--output-stride", "16")
    found = described(folder, *values)
    chosen = [found[key] for key in ("name", "encoder", "output_stride", "num_classes", "heads")]
    assert chosen == ["pspnet", "resnet18", 16, 19, {"main": 1, "aux": 0.4}]
    assert [stage["reduction"] for stage in found["stages"]] == [2, 4, 8, 16, 16]
    assert {key["name"]: key["default"] for key in found["keys"]} == {
        "encoder": "resnet101s",
        "aux": True,
        "weight_aux": 0.4,
    }
    groups = {one["name"]: one for one in found["groups"]}
    assert groups["decoder.main.1"]["macs"] == 1024 * 512 * 9 * 4 * 8
    assert groups["decoder.main.0"]["shapes"] == [[1024, 4, 8]]
    for key in ("parameters", "macs"):
        assert sum(one[key] for one in found["groups"]) == found[key]


def test_tables_of_one_network_have_the_same_numbers(folder: Path) -> None:
    found = described(folder, "--architecture", "bisenet")
    ended = call("models", "--architecture", "bisenet", *SIZE, folder=folder)
    assert ended.code == 0 and ended.err == ""
    rows = cells(ended.out)
    assert ["total", "13,494,777", f"{found['macs'] / 1e9:.2f}", ""] in rows
    for one in found["groups"]:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in one["shapes"])
        cost = [f"{one['parameters']:,}", f"{one['macs'] / 1e9:.2f}"]
        assert [one["name"], *cost, shapes] in rows
    assert ["1/32", "512"] in rows
    assert ["aux_16 1"] in [row[-1:] for row in rows]
    assert ["output_stride", "32", "Reads stages down to 1/32."] in rows
    assert ["aux", "true", "Heads on the context path at 1/8 and 1/16 (the paper's)."] in rows


def test_one_encoder_is_described(folder: Path) -> None:
    found = described(folder, "--encoder", "vgg16.tv_in1k", "--output-stride", "8")
    assert [stage["channels"] for stage in found["stages"]] == [64, 128, 256, 512, 512]
    assert (found["output_stride"], found["output_strides"]) == (8, [8, 16, 32])
    assert found["weights"] == "vgg16.tv_in1k"
    assert found["parameters"] == sum(one["parameters"] for one in found["groups"])
    ended = call("models", "--encoder", "caffe_resnet14", *SIZE, folder=folder)
    rows = cells(ended.out)
    assert ["1/8", "2048"] in rows and ["total", "8,015,936", "1.27", ""] in rows
    assert "decoder" not in ended.out


def test_strides_are_those_that_timm_encoders_can_have(folder: Path) -> None:
    found = described(folder, "--encoder", "convnext_atto")
    assert found["output_strides"] == [8, 16, 32]
    assert found["output_stride"] == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "512"], "--size: expected height x width, from 32 to 65536 pixels each, such"),
        (["--size", "512"], "got '512'"),
        (["--size", "31x64"], "got '31x64'"),
        (["--size", "64x65537"], "got '64x65537'"),
        (["--size", "-64x64"], "got '-64x64'"),
        (["--size", "64 x 64"], "got '64 x 64'"),
        (["--output-stride", "8"], "--output-stride: expected --architecture or --encoder beside"),
        (
            ["--output-stride", "4", "--encoder", "vgg16"],
            "model.output_stride: expected 8, 16 or 32",
        ),
        (
            ["--output-stride", "4", "--encoder", "vit_tiny_patch16_224"],
            "model.output_stride: expected 8, 14, 16 or 32, got 4",
        ),
        (["--architecture", "pspnt"], "expected a known name, got 'pspnt'; did you mean 'pspnet'?"),
        (["--encoder", "resnt18"], "got 'resnt18'; did you mean 'resnet18'?"),
        (
            ["--architecture", "unet", "--encoder", "resnet18"],
            "model.output_stride: unet expected each stage half the one before it",
        ),
        (
            ["--architecture", "frrn", "--encoder", "resnet18"],
            "model.encoder: expected frrn_a or frrn_b, got 'resnet18'",
        ),
        (
            ["--architecture", "pspnet", "--encoder", "caffe_resnet50", "--output-stride", "16"],
            "model.output_stride: expected 8, the only one of encoder 'caffe_resnet50', got 16",
        ),
        (
            ["--encoder", "hrnet_w18_small"],
            "model.encoder: expected an encoder of images of any size, got 'hrnet_w18_small'",
        ),
    ],
    ids=str,
)
def test_mistakes_end_with_2_and_one_message(argv: list[str], message: str, folder: Path) -> None:
    ended = call("models", *argv, folder=folder)
    assert ended.code == 2 and ended.out == ""
    assert ended.err.startswith("JobError ") and ended.err.count("JobError") == 1
    assert message in ended.err and "Traceback" not in ended.err


def test_wrong_usage_ends_with_2(folder: Path) -> None:
    ended = call("models", "--classes", "0", folder=folder)
    assert ended.code == 2 and "--classes" in ended.err


def test_the_command_explains_itself(folder: Path) -> None:
    ended = call("models", "--help", folder=folder)
    options = ("--architecture", "--encoder", "--output-stride", "--size", "--classes", "--json")
    assert ended.code == 0 and all(option in ended.out for option in options)


@pytest.mark.parametrize(
    ("demands", "words"),
    [
        (Demands(), "any"),
        (Demands(encoders=("frrn_a", "frrn_b")), "only frrn_a, frrn_b"),
        (PYRAMID, "with stages 1/4, 1/8, 1/16, 1/32"),
        (Demands(reductions=(4,), halving=True), "with stages 1/4, each stage half the one before"),
        (Demands(num_stages=3), "with 3 stages or more"),
        (Demands(equal_strides=True), "vision transformers of timm"),
    ],
)
def test_which_encoders_fit_in_words(demands: Demands, words: str) -> None:
    assert fitting_encoders(demands) == words


def test_a_vision_transformer_alone_has_its_own_patches(folder: Path) -> None:
    """As the page's table has it; only patches of another side and pyramids have more numbers."""
    own = described(folder, "--encoder", "eva02_small_patch14_336")
    assert own == described(folder, "--encoder", "eva02_small_patch14_336", "--output-stride", "14")
    assert (own["parameters"], own["output_stride"]) == (21_743_232, 14)
    assert [stage["reduction"] for stage in own["stages"]] == [14] * 4
    assert (own["output_strides"], own["pyramid_strides"]) == ([14], [8, 16, 32])


@pytest.mark.parametrize(("stride", "reductions"), [(16, [16] * 4), (32, [4, 8, 16, 32])])
def test_patches_of_another_side_and_pyramids_are_described(
    stride: int, reductions: list[int], folder: Path
) -> None:
    found = described(
        folder, "--encoder", "eva02_small_patch14_336", "--output-stride", str(stride)
    )
    assert [stage["reduction"] for stage in found["stages"]] == reductions
    more = 3 * 384 * (16**2 - 14**2)
    assert (found["output_stride"], found["parameters"]) == (stride, 21_743_232 + more)


def test_a_pyramid_says_so(folder: Path) -> None:
    argv = ("models", "--encoder", "vit_tiny_patch16_224", *SIZE)
    as_it_is, pyramid = (call(*argv, *more, folder=folder).out for more in ((), PYRAMID_8))
    assert "vit_tiny_patch16_224 at output stride 16," in as_it_is
    assert "vit_tiny_patch16_224 at a pyramid at output stride 8" in pyramid


LISTED = listed_networks()


def test_the_list_has_every_row_of_the_tables() -> None:
    assert [row.name for row in LISTED.architectures] == list(ARCHITECTURES)
    names = [*ENCODERS, *TESTED_ENCODERS, *LISTED_VITS]
    assert [row.name for row in LISTED.encoders] == names


@pytest.mark.slow
@pytest.mark.parametrize("row", one_in(7, LISTED.architectures), ids=lambda row: row.name)
def test_listed_architectures_are_those_of_the_code(row: Architecture) -> None:
    found = describe_architecture({"architecture": row.name}, LISTED_HW, LISTED_CLASSES)
    assert plain(found) == plain(row), "run `make docs`"


@pytest.mark.slow
@pytest.mark.parametrize("row", one_in(11, LISTED.encoders), ids=lambda row: row.name)
def test_listed_encoders_are_those_of_the_code(row: EncoderChoice) -> None:
    assert plain(describe_encoder(row.name, LISTED_HW)) == plain(row), "run `make docs`"


def plain(row: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(asdict(row)))


@pytest.mark.cold_start
def test_the_list_is_read_not_counted(folder: Path) -> None:
    """Without torch and timm, whose import alone takes seconds."""
    code = (
        "import sys; sys.argv = ['segadapt', 'models', '--json']; from adapt.cli.main import main; "
        "code = main(); assert not {'torch', 'timm'} & set(sys.modules); sys.exit(code)"
    )
    ended = finish(start_python("-c", code, folder=folder))
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert found["size_hw"] == list(LISTED_HW)
    assert found["encoders"] == [plain(row) for row in LISTED.encoders]


def test_the_listed_table_has_the_vision_transformers(folder: Path) -> None:
    ended = call("models", folder=folder)
    assert (ended.code, ended.err) == (0, "")
    text = "".join(cell for row in cells(ended.out) for cell in row[:1])
    assert all(name in text for name in LISTED_VITS)


def test_every_tested_encoder_has_weights_with_a_licence() -> None:
    encoders = {one.name: one for one in LISTED.encoders}
    for name in TESTED_ENCODERS:
        weights, licence = encoders[name].weights, encoders[name].licence
        assert weights is not None and weights.startswith(f"{name}.")
        assert licence in ("apache-2.0", "bsd-3-clause", "mit")


def test_a_tested_encoder_is_built_once_to_be_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each output stride: `segadapt models` lists dozens of them."""
    built = []

    def counted(name: str, output_stride: int | None) -> Encoder:
        built.append(output_stride)
        return encoder_without_memory(name, output_stride)

    monkeypatch.setattr(network_counts, "encoder_without_memory", counted)
    found = describe_encoder("resnet18", (64, 64))
    assert (built, found.output_strides) == ([32], (8, 16, 32))
