"""Vision transformers of timm: stages, sizes, prefix tokens, patches of another side."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from adapt.errors import JobError
from adapt.models import build_encoder
from adapt.models.encoders.pretrained import weights_licence
from adapt.models.encoders.vit import LISTED_VITS, ViTEncoder, is_vit, stage_ends

torch.set_num_threads(1)
FAMILIES = {
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
    "vit_base_patch14_reg1_tipsv2": 14,
    "vit_pe_spatial_tiny_patch16_512": 16,
    "eva02_tiny_patch14_336": 14,
    "deit3_small_patch16_224": 16,
    "vit_tiny_patch16_224": 16,
}
"""A network of each family and the side of its patches."""


@pytest.mark.parametrize(("name", "patch"), FAMILIES.items())
def test_every_family_takes_any_size(name: str, patch: int) -> None:
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(name, None, equal_strides=True)
        for size_hw in ((97, 161), (1, 1)):
            stages = encoder(torch.empty(2, 3, *size_hw))
            shape = (2, encoder.channels[0], *(-(-side // patch) for side in size_hw))
            assert [tuple(stage.shape) for stage in stages] == [shape] * 4
    assert encoder.output_stride == patch
    assert encoder.reductions == (patch,) * 4


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("vit_small_patch14_dinov2", 16),
        ("vit_small_patch16_dinov3", 14),
        ("vit_pe_spatial_tiny_patch16_512", 14),
    ],
)
def test_patches_of_another_side_keep_the_table_of_positions(name: str, patch: int) -> None:
    with torch.device("meta"), torch.no_grad():
        own: Any = timm.create_model(name, num_classes=0)
        encoder: Any = build_encoder(name, patch, equal_strides=True)
        stages = encoder(torch.empty(1, 3, 97, 161))
    assert encoder.output_stride == patch
    assert stages[0].shape[-2:] == (-(-97 // patch), -(-161 // patch))
    assert encoder.backbone.patch_embed.proj.weight.shape[-2:] == (patch, patch)
    if own.pos_embed is not None:
        assert encoder.backbone.pos_embed.shape == own.pos_embed.shape


@pytest.mark.parametrize(
    ("num_blocks", "ends"),
    [
        (24, (7, 11, 15, 23)),
        (12, (2, 5, 8, 11)),
        (40, (9, 19, 29, 39)),
        (32, (7, 15, 23, 31)),
        (6, (1, 2, 4, 5)),
        (2, (0, 0, 1, 1)),
    ],
)
def test_stages_end_at_quarter_points_or_where_papers_say(
    num_blocks: int, ends: tuple[int, ...]
) -> None:
    assert stage_ends(num_blocks) == ends


def test_stages_are_timms_own_tokens_without_prefix() -> None:
    torch.manual_seed(0)
    encoder: Any = ViTEncoder("vit_small_patch14_reg4_dinov2", depth=3, embed_dim=24, num_heads=2)
    images = torch.randn(2, 3, 56, 42)
    with torch.no_grad():
        stages = encoder.eval()(images)
        tokens = encoder.backbone.forward_features(images)
    patches = tokens[:, 5:].reshape(2, 4, 3, 24).permute(0, 3, 1, 2)
    torch.testing.assert_close(stages[-1], patches)
    assert not torch.equal(stages[0], stages[1])
    assert torch.equal(stages[0], stages[0]) and len(stages) == 4


def test_images_are_padded_by_their_last_pixels() -> None:
    encoder: Any = ViTEncoder("test_vit").eval()
    images = torch.randn(1, 3, 33, 48)
    padded = torch.cat([images, images[:, :, -1:].expand(-1, -1, 15, -1)], dim=2)
    with torch.no_grad():
        for one, other in zip(encoder(images), encoder(padded), strict=True):
            assert one.shape == (1, 64, 3, 3)
            assert torch.equal(one, other)


def test_blocks_are_the_transformers() -> None:
    encoder: Any = ViTEncoder("test_vit")
    assert encoder.blocks() == list(encoder.backbone.blocks)
    assert len(encoder.blocks()) == 6
    assert encoder.multiple_px == 16


@pytest.mark.parametrize("name", ["resnet18", "caffe_resnet101", "convnext_atto"])
def test_equal_strides_need_a_vision_transformer(name: str) -> None:
    message = (
        f"model.encoder: expected a vision transformer, .* got '{name}'.*vit_base_patch14_dinov2"
    )
    with pytest.raises(JobError, match=message):
        build_encoder(name, None, equal_strides=True)


def test_an_output_stride_is_needed_for_other_encoders() -> None:
    with pytest.raises(JobError, match=r"model.output_stride: expected 8, 16 or 32, got null"):
        build_encoder("resnet18", None)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(JobError, match=r"model.encoder: expected a vision transformer of images"):
        ViTEncoder("test_vit.nonsense")


ROW = re.compile(
    r"^\| `(\w+)` \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d, ]+) \| ([\w.-]+)", re.MULTILINE
)
PAGE = Path(__file__).parents[3] / "docs" / "vision_transformers.md"


REGISTERS = {f"vit_{size}_patch14_reg4_dinov2" for size in ("small", "base", "large", "giant")}
"""Of the page's line without numbers."""


def test_the_page_names_what_is_there() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert {name for name, *_ in rows} | REGISTERS == set(LISTED_VITS)
    assert all(is_vit(name) and weights_licence(name) == row[-1] for name, *row in rows)


@pytest.mark.nightly
@pytest.mark.parametrize("row", ROW.findall(PAGE.read_text()), ids=lambda row: row[0])
def test_the_page_has_the_costs(row: tuple[str, ...]) -> None:
    name, patch, blocks, millions, ends, _ = row
    with torch.device("meta"):
        encoder = ViTEncoder(name)
    parameters = sum(one.numel() for one in encoder.parameters())
    assert (encoder.patch_px, len(encoder.blocks())) == (int(patch), int(blocks))
    assert ", ".join(map(str, encoder.ends)) == ends
    assert f"{parameters / 1e6:.1f}" == millions


def test_which_names_are_vision_transformers() -> None:
    assert is_vit("vit_base_patch14_dinov2.lvd142m")
    assert not is_vit("resnet50")
    assert not is_vit("caffe_resnet101")
    assert not is_vit("swin_tiny_patch4_window7_224")
