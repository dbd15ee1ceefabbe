"""MiT, the encoder of SegFormer (Xie, Wang, Yu, Anandkumar, Alvarez & Luo, NeurIPS 2021).

Four stages of transformer blocks from 1/4 to 1/32 of the size, without position tables, so that any
size fits: embeddings overlap, and a 3x3 convolution in each block's MLP shows where a pixel lies.
Keys and values come from a reduced map. Maps are channels last between blocks; tensors have the
names of NVIDIA's files, whose weights are licensed for non-commercial use alone.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models.encoders.encoder import (
    IMAGENET_PIXELS,
    WEIGHTS_KEY,
    Encoder,
    LoadReport,
    no_multiplicity,
    wrong_output_stride,
)
from adapt.models.encoders.mit_names import encoders_own
from adapt.models.weights import misfit

OUTPUT_STRIDE = 32
STRIDES, HEADS, REDUCTIONS = (4, 2, 2, 2), (1, 2, 5, 8), (8, 4, 2, 1)
"""By stage: of the embedding; of the attention; how much its keys and values are reduced a side."""

MLP_RATIO, DROP_PATH, BLOCK_EPS = 4, 0.1, 1e-6
LICENCE = "nvidia-segformer"
"""Of NVIDIA's weights, which a job has to accept."""


class Size(NamedTuple):
    """A row of `SIZES`: channels and blocks by stage."""

    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]


WIDE = (64, 128, 320, 512)
SIZES = {
    "mit_b0": Size((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": Size(WIDE, (2, 2, 2, 2)),
    "mit_b2": Size(WIDE, (3, 4, 6, 3)),
    "mit_b3": Size(WIDE, (3, 4, 18, 3)),
    "mit_b4": Size(WIDE, (3, 8, 27, 3)),
    "mit_b5": Size(WIDE, (3, 6, 40, 3)),
}


class OverlapEmbedding(nn.Module):
    """A strided convolution whose windows overlap, and a norm: (B, C, H, W) -> (B, h, w, C')."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        kernel = 2 * stride - 1
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.proj(maps).permute(0, 2, 3, 1))
        return embedded


class EfficientAttention(nn.Module):
    """Self-attention on keys and values of a map reduced by a convolution: (B, h, w, C) -> same."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr, self.norm = None, None
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        keys, values = self.kv(self._reduced(maps)).chunk(2, dim=-1)
        queries, keys, values = map(self._by_head, (self.q(maps), keys, values))
        attended = F.scaled_dot_product_attention(queries, keys, values)
        joined: Tensor = self.proj(attended.transpose(1, 2).reshape(maps.shape))
        return joined

    def _reduced(self, maps: Tensor) -> Tensor:
        if self.sr is None or self.norm is None:
            return maps
        reduced: Tensor = self.norm(self.sr(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return reduced

    def _by_head(self, maps: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, heads, h w, C / heads)."""
        return maps.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MixMLP(nn.Module):
    """Linear, depthwise 3x3, GELU, linear: (B, h, w, C) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, width)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(width, width, 3, 1, 1, groups=width)})
        self.fc2 = nn.Linear(width, channels)

    def forward(self, maps: Tensor) -> Tensor:
        wide = self.dwconv["dwconv"](self.fc1(maps).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        narrow: Tensor = self.fc2(F.gelu(wide))
        return narrow


class MiTBlock(nn.Module):
    """Attention and MLP, each on its norm and added to its input: (B, h, w, C) -> the same shape.

    An image leaves out what is added with the chance `drop_path.drop_prob`, in training.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        from timm.layers.drop import DropPath  # imports timm: seconds

        self.norm1 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.attn = EfficientAttention(channels, heads, reduction)
        self.drop_path = DropPath()
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.mlp = MixMLP(channels)

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps + self.drop_path(self.attn(self.norm1(maps)))
        return maps + self.drop_path(self.mlp(self.norm2(maps)))


class MiT(Encoder):
    """A row of `SIZES`. `JobError` for another output stride than 32.

    Stochastic depth rises from 0 at the first block to `DROP_PATH` at the last, as in the program.
    """

    def __init__(self, name: str, output_stride: int = OUTPUT_STRIDE) -> None:
        super().__init__()
        if output_stride != OUTPUT_STRIDE:
            raise wrong_output_stride(name, OUTPUT_STRIDE, output_stride)
        self.name, self.output_stride, self.pixels = name, output_stride, IMAGENET_PIXELS
        size = SIZES[name]
        self.channels, self.reductions = size.channels, (4, 8, 16, 32)
        in_channels = 3
        for stage, channels in enumerate(size.channels):
            shape = channels, HEADS[stage], REDUCTIONS[stage]
            blocks = [MiTBlock(*shape) for _ in range(size.blocks[stage])]
            embedding = OverlapEmbedding(in_channels, channels, STRIDES[stage])
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", nn.ModuleList(blocks))
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(channels, eps=BLOCK_EPS))
            in_channels = channels
        self.set_drop_path(DROP_PATH)
        self.apply(_start)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> four stages (B, C, h, w), each after its norm."""
        features, stages = images, []
        for stage in range(1, len(self.channels) + 1):
            maps = self._part("patch_embed", stage)(features)
            for block in self._part("block", stage):
                maps = block(maps)
            features = self._part("norm", stage)(maps).permute(0, 3, 1, 2)
            stages.append(features)
        return tuple(stages)

    def _blocks(self) -> list[MiTBlock]:
        return [one for one in self.modules() if isinstance(one, MiTBlock)]

    def _part(self, kind: str, stage: int) -> Any:
        return self.get_submodule(f"{kind}{stage}")

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of all stages."""
        return list(self._blocks())

    def set_drop_path(self, chance: float) -> None:
        """As the contract says."""
        blocks = self._blocks()
        for number, block in enumerate(blocks):
            block.drop_path.drop_prob = chance * number / (len(blocks) - 1)

    def load(self, state: Mapping[str, Tensor]) -> LoadReport:
        """As the contract says, for NVIDIA's names and those of the hub's files (nvidia/mit-b5);
        classifiers and SegFormer's head are left out."""
        given, dropped = encoders_own(state)
        differences = misfit(self.state_dict(), given)
        if differences:
            raise JobError(
                f"{WEIGHTS_KEY}: expected weights of encoder {self.name!r} as NVIDIA or its page "
                f"of Hugging Face's hub name them, got others ({differences})",
                fix=f"take {self.name}.pth, or model.safetensors of "
                f"nvidia/{self.name.replace('_', '-')}, or set model.encoder to the file's",
            )
        self.load_state_dict(given, strict=False)
        return LoadReport(len(given), dropped)

    def multiplicities(self) -> dict[str, int]:
        """There are none: the papers' programs train Caffe's networks alone."""
        raise no_multiplicity(self.name)

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """`JobError`: NVIDIA's licence must be read before its weights are taken."""
        raise JobError(
            f"model.weights: expected none with encoder {self.name!r}, got imagenet: NVIDIA "
            "licenses these weights for non-commercial use alone, so they are not fetched",
            fix=f"where that suits you, set model.weights_uri to {self.name}.pth or to "
            f"model.safetensors of nvidia/{self.name.replace('_', '-')}; else model.weights: none",
        )


def _start(module: nn.Module) -> None:
    """As the program does: linear layers at N(0, 0.02), convolutions by what they write."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
