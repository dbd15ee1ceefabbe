"""MiT against its paper: published costs, a block in plain formulas, published files' names."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models import build_encoder, build_segmenter
from adapt.models.costs import segmenter_cost, segmenter_without_memory
from adapt.models.encoders.mit import DROP_PATH, LICENCE, SIZES, MiT, MiTBlock
from adapt.models.weights import load_fitting, read_weights

torch.set_num_threads(1)
ADE20K_CLASSES, ADE20K_HW = 150, (512, 512)


@pytest.mark.parametrize(
    ("name", "parameters", "published_millions", "published_gflops"),
    [
        ("mit_b0", 3_752_694, 3.8, 8.4),
        ("mit_b1", 13_715_798, 13.7, 15.9),
        ("mit_b2", 27_461_974, 27.5, 62.4),
        ("mit_b3", 47_337_814, 47.3, None),
        ("mit_b4", 64_108_374, 64.1, None),
        ("mit_b5", 84_708_694, 84.7, None),
    ],
)
def test_segformers_cost_what_the_paper_says(
    name: str, parameters: int, published_millions: float, published_gflops: float | None
) -> None:
    """Table 1 of the paper: with the head of 150 classes; its FLOPs are multiply-accumulates."""
    values = {"architecture": "segformer", "encoder": name, "aux": False}
    segmenter = segmenter_without_memory(values, ADE20K_CLASSES)
    assert sum(parameter.numel() for parameter in segmenter.parameters()) == parameters
    assert round(parameters / 1e6, 1) == published_millions
    if published_gflops is not None:
        cost = segmenter_cost(segmenter, ADE20K_HW)
        assert cost.macs / 1e9 == pytest.approx(published_gflops, rel=0.002)


def _normed(maps: Tensor, norm: Any) -> Tensor:
    centred = maps - maps.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def _attended(maps: Tensor, attention: Any, reduction: int) -> Tensor:
    """Each query's average of the values, by head: (B, h, w, C) -> (B, h w, C)."""
    batch, _, _, channels = maps.shape
    queries = maps.flatten(1, 2) @ attention.q.weight.T + attention.q.bias
    reduced = maps
    if reduction > 1:
        conv = attention.sr
        reduced = F.conv2d(maps.permute(0, 3, 1, 2), conv.weight, conv.bias, stride=reduction)
        reduced = _normed(reduced.permute(0, 2, 3, 1), attention.norm)
    both = reduced.reshape(batch, -1, channels) @ attention.kv.weight.T + attention.kv.bias
    keys, values = both[..., :channels], both[..., channels:]
    width, heads = channels // attention.heads, []
    for start in range(0, channels, width):
        own = slice(start, start + width)
        scores = queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(width)
        heads.append(scores.softmax(dim=-1) @ values[..., own])
    return torch.cat(heads, dim=-1) @ attention.proj.weight.T + attention.proj.bias


def _mixed(maps: Tensor, mlp: Any) -> Tensor:
    wide = maps @ mlp.fc1.weight.T + mlp.fc1.bias
    conv = mlp.dwconv["dwconv"]
    padded = F.pad(wide.permute(0, 3, 1, 2), (1, 1, 1, 1))
    height, width = maps.shape[1:3]
    near = torch.zeros_like(wide.permute(0, 3, 1, 2)) + conv.bias[:, None, None]
    for row in range(3):
        for column in range(3):
            shifted = padded[:, :, row : row + height, column : column + width]
            near = near + conv.weight[:, 0, row, column, None, None] * shifted
    near = near.permute(0, 2, 3, 1)
    bent = near * 0.5 * (1 + torch.erf(near / math.sqrt(2)))
    return bent @ mlp.fc2.weight.T + mlp.fc2.bias


def _varied(module: nn.Module) -> nn.Module:
    """In float64, every parameter away from the values that it starts at."""
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize(("heads", "reduction"), [(1, 8), (2, 4), (5, 2), (8, 1)])
@torch.no_grad()
def test_a_block_computes_the_papers_formulas(heads: int, reduction: int) -> None:
    torch.manual_seed(0)
    block: Any = _varied(MiTBlock(40, heads, reduction))
    maps = torch.randn(2, 9, 17, 40, dtype=torch.float64)
    between = maps + _attended(_normed(maps, block.norm1), block.attn, reduction).view_as(maps)
    expected = between + _mixed(_normed(between, block.norm2), block.mlp)
    torch.testing.assert_close(block(maps), expected, rtol=1e-11, atol=1e-11)
    assert (block.norm1.eps, block.norm2.eps) == (1e-6, 1e-6)


@torch.no_grad()
def test_stages_are_embeddings_blocks_and_a_norm() -> None:
    torch.manual_seed(0)
    encoder: Any = _varied(build_encoder("mit_b0", 32))
    images = torch.randn(1, 3, 41, 70, dtype=torch.float64)
    features = images
    for number, found in enumerate(encoder(images), start=1):
        embedding = getattr(encoder, f"patch_embed{number}")
        kernel, stride = (7, 4) if number == 1 else (3, 2)
        conv = embedding.proj
        assert conv.kernel_size == (kernel, kernel) and embedding.norm.eps == 1e-5
        maps = F.conv2d(features, conv.weight, conv.bias, stride, kernel // 2)
        maps = _normed(maps.permute(0, 2, 3, 1), embedding.norm)
        for block in getattr(encoder, f"block{number}"):
            maps = block(maps)
        features = _normed(maps, getattr(encoder, f"norm{number}")).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, features, rtol=1e-11, atol=1e-11)


def test_starts_as_the_program_does() -> None:
    torch.manual_seed(0)
    encoder: Any = build_encoder("mit_b1", 32)
    fc1, proj = encoder.block4[0].mlp.fc1, encoder.patch_embed3.proj
    assert fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert proj.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 320)), rel=0.02)
    depthwise = encoder.block1[0].mlp.dwconv["dwconv"]
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert not fc1.bias.any() and not proj.bias.any() and not depthwise.bias.any()


@pytest.mark.parametrize("name", SIZES)
def test_stochastic_depth_rises_from_block_to_block(name: str) -> None:
    with torch.device("meta"):
        encoder: Any = build_encoder(name, 32)
    chances = [one.drop_path.drop_prob for one in encoder.modules() if isinstance(one, MiTBlock)]
    assert (chances[0], chances[-1]) == (0.0, pytest.approx(DROP_PATH))
    steps = {round(b - a, 6) for a, b in pairwise(chances)}
    encoder.set_drop_path(0.5)
    assert encoder.blocks()[-1].drop_path.drop_prob == 0.5
    assert len(chances) == sum(SIZES[name].blocks) and max(steps) - min(steps) < 1e-5


def test_gradient_reaches_every_parameter_without_stochastic_depth() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("mit_b0", 32).eval()
    total = sum(stage.square().mean() * (2 + number) for number, stage in enumerate(_run(encoder)))
    assert isinstance(total, Tensor)
    total.backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def _run(encoder: Any) -> tuple[Tensor, ...]:
    stages: tuple[Tensor, ...] = encoder(torch.randn(2, 3, 64, 64))
    return tuple(stage * torch.randn_like(stage) for stage in stages)


@pytest.mark.parametrize("norm", ["train", "frozen_affine", "frozen"])
def test_batch_norms_key_leaves_layer_norms_alone(norm: str) -> None:
    """MiT has no batch norm: all of it trains; the head's batch norms are the head's."""
    segmenter = build_segmenter(
        {"architecture": "segformer", "encoder": "mit_b0", "weights": "none", "norm": norm}
    ).train()
    assert list(segmenter.encoder.norms()) == []
    assert all(parameter.requires_grad for parameter in segmenter.parameters())
    assert all(module.training for module in segmenter.modules())


def hub_names() -> Iterator[tuple[str, str, slice | None]]:
    """Of MiT-B0: a name of the hub's file, ours, and the part of our tensor that it holds."""
    for stage in range(4):
        for kind in ("weight", "bias"):
            for theirs, ours in (("proj", "proj"), ("layer_norm", "norm")):
                name = f"patch_embed{stage + 1}.{ours}.{kind}"
                yield f"patch_embeddings.{stage}.{theirs}.{kind}", name, None
            yield f"layer_norm.{stage}.{kind}", f"norm{stage + 1}.{kind}", None
            for block in range(2):
                for theirs, ours, part in hub_block(stage):
                    name = f"block{stage + 1}.{block}.{ours}.{kind}"
                    yield f"block.{stage}.{block}.{theirs}.{kind}", name, part


def hub_block(stage: int) -> Iterator[tuple[str, str, slice | None]]:
    channels = SIZES["mit_b0"].channels[stage]
    yield "layer_norm_1", "norm1", None
    yield "layer_norm_2", "norm2", None
    yield "attention.self.query", "attn.q", None
    yield "attention.self.key", "attn.kv", slice(channels)
    yield "attention.self.value", "attn.kv", slice(channels, 2 * channels)
    yield "attention.output.dense", "attn.proj", None
    if stage < 3:
        yield "attention.self.sr", "attn.sr", None
        yield "attention.self.layer_norm", "attn.norm", None
    yield "mlp.dense1", "mlp.fc1", None
    yield "mlp.dwconv.dwconv", "mlp.dwconv.dwconv", None
    yield "mlp.dense2", "mlp.fc2", None


def planted(prefix: str, classifier: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MiT-B0's tensors by our names, random, and what the hub's file has of them."""
    torch.manual_seed(3)
    own = {name: torch.randn(one.shape) for name, one in MiT("mit_b0").state_dict().items()}
    file = {
        prefix + theirs: own[ours] if part is None else own[ours][part].clone()
        for theirs, ours, part in hub_names()
    }
    return own, file | {f"{classifier}.weight": torch.zeros(1000, 256)}


@pytest.mark.parametrize(
    ("prefix", "classifier"),
    [("segformer.encoder.", "classifier"), ("encoder.", "head"), ("", "decode_head.classifier")],
)
def test_the_hubs_files_are_taken_by_their_names(
    prefix: str, classifier: str, tmp_path: Path
) -> None:
    own, file = planted(prefix, classifier)
    save_file(file, tmp_path / "model.safetensors")
    encoder = build_encoder("mit_b0", 32)
    report = encoder.load(read_weights(tmp_path / "model.safetensors"))
    assert (report.loaded, report.dropped) == (len(own), (f"{classifier}.weight",))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, own[name]), name


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("", "head.weight"), ("backbone.", "decode_head.conv_seg.weight")],
    ids=["classifier", "segformer"],
)
def test_nvidias_files_are_taken_as_they_are(prefix: str, head: str, tmp_path: Path) -> None:
    """mit_b0.pth has the tensors alone; a SegFormer's stand in a wrapper, under a prefix."""
    own, _ = planted("", "head")
    tensors = {prefix + name: one for name, one in own.items()} | {head: torch.zeros(7, 256)}
    torch.save({"state_dict": tensors} if prefix else tensors, tmp_path / "mit_b0.pth")
    encoder = build_encoder("mit_b0", 32)
    read = read_weights(tmp_path / "mit_b0.pth")
    report = load_fitting(read, encoder.load, "model.weights_uri")
    assert (report.loaded, report.dropped) == (len(own), (head,))
    assert all(torch.equal(value, own[name]) for name, value in encoder.state_dict().items())


def test_another_encoders_file_is_named() -> None:
    own, file = planted("segformer.encoder.", "classifier")
    del file["segformer.encoder.block.1.0.attention.self.value.bias"]
    with pytest.raises(JobError) as caught:
        build_encoder("mit_b0", 32).load(file)
    message = str(caught.value)
    assert "expected weights of encoder 'mit_b0' as NVIDIA or its page of" in message
    assert "missing: block2.0.attn.kv.bias" in message
    assert "unexpected: block2.0.attn.key.bias" in message
    assert "Fix: take mit_b0.pth, or model.safetensors of nvidia/mit-b0, or set" in message
    with pytest.raises(JobError, match=r"'mit_b1' .*misshaped: patch_embed1.proj.weight \[32,"):
        build_encoder("mit_b1", 32).load(own)


def test_weights_under_nvidias_licence_are_not_fetched() -> None:
    with pytest.raises(JobError, match=r"non-commercial use alone.*weights_uri to mit_b5.pth"):
        build_segmenter({"architecture": "daformer_head", "accept_license": LICENCE})


def test_stochastic_depth_is_the_jobs() -> None:
    values = {"architecture": "segformer", "encoder": "mit_b0", "weights": "none"}
    with torch.device("meta"):
        encoder: Any = build_segmenter({**values, "drop_path": 0.3}).encoder
    assert encoder.blocks()[-1].drop_path.drop_prob == 0.3
    message = r"model.drop_path: expected null with encoder 'caffe_vgg16', .* got 0.3"
    with pytest.raises(JobError, match=message), torch.device("meta"):
        build_encoder("caffe_vgg16", 8, drop_path=0.3)
