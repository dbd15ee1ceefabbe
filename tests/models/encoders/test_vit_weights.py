"""Weights of vision transformers: small files with each family's own names, against timm's own
forward pass of the same file."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from adapt.errors import JobError
from adapt.models import build_segmenter
from adapt.models.encoders.hub_names import in_own_names
from adapt.models.encoders.resize_pyramid import ResizePyramid
from adapt.models.encoders.vit import ViTEncoder
from adapt.models.weights import read_weights

torch.set_num_threads(1)
WIDTH, DEPTH, HEADS = 24, 2, 2
SMALL: dict[str, Any] = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS}
State = dict[str, Tensor]


def _linear(name: str, out: int, into: int, bias: bool = True) -> State:
    torch.manual_seed(len(name) + out)
    state = {f"{name}.weight": torch.randn(out, into) * 0.2}
    return state | ({f"{name}.bias": torch.randn(out) * 0.2} if bias else {})


def _norm(name: str) -> State:
    return {f"{name}.weight": torch.rand(WIDTH) + 0.5, f"{name}.bias": torch.randn(WIDTH) * 0.1}


def _blocks(prefix: str, names: dict[str, str], qkv_bias: bool = True) -> State:
    """Blocks under a family's own names of norms, linear layers and scales."""
    state: State = {}
    for number in range(DEPTH):
        start = f"{prefix}{number}."
        state |= _norm(f"{start}{names['norm1']}") | _norm(f"{start}{names['norm2']}")
        state |= _linear(f"{start}{names['proj']}", WIDTH, WIDTH)
        state |= _linear(f"{start}{names['fc1']}", 4 * WIDTH, WIDTH)
        state |= _linear(f"{start}{names['fc2']}", WIDTH, 4 * WIDTH)
        qkv = _linear("qkv", 3 * WIDTH, WIDTH)
        state[f"{start}{names['qkv']}weight"] = qkv["qkv.weight"]
        state[f"{start}{names['qkv']}bias"] = qkv["qkv.bias"] * qkv_bias
        for scale in ("scale1", "scale2"):
            if scale in names:
                state[f"{start}{names[scale]}"] = torch.rand(WIDTH) + 0.5
    return state


DINO_NAMES = {
    "norm1": "norm1",
    "norm2": "norm2",
    "qkv": "attn.qkv.",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
}
PE_NAMES = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "qkv": "attn.in_proj_",
    "proj": "attn.out_proj",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}


def dinov2_file(grid: int = 37, patch: int = 14, registers: int = 0) -> State:
    """As facebookresearch/dinov2 saves a backbone; TIPSv2's vision encoder has the same names."""
    state = {
        "cls_token": torch.randn(1, 1, WIDTH),
        "pos_embed": torch.randn(1, 1 + grid**2, WIDTH),
        "mask_token": torch.zeros(1, WIDTH),
        "patch_embed.proj.weight": torch.randn(WIDTH, 3, patch, patch) * 0.1,
        "patch_embed.proj.bias": torch.randn(WIDTH),
    }
    if registers:
        state["register_tokens"] = torch.randn(1, registers, WIDTH)
    return state | _blocks("blocks.", DINO_NAMES) | _norm("norm")


def tipsv2_file() -> State:
    """Of both encoders together, the vision encoder's below a name of its own."""
    vision = dinov2_file(grid=32, registers=1)
    texts = {"text_encoder.embedding": torch.zeros(4, 4)}
    return texts | {f"vision_encoder.{key}": tensor for key, tensor in vision.items()}


def dinov3_file(bias: bool) -> State:
    """As facebookresearch/dinov3 saves a backbone."""
    state = {
        "cls_token": torch.randn(1, 1, WIDTH),
        "storage_tokens": torch.randn(1, 4, WIDTH),
        "mask_token": torch.zeros(1, WIDTH),
        "patch_embed.proj.weight": torch.randn(WIDTH, 3, 16, 16) * 0.1,
        "patch_embed.proj.bias": torch.randn(WIDTH),
        "rope_embed.periods": torch.rand(WIDTH // HEADS // 4),
    }
    state |= _blocks("blocks.", DINO_NAMES, qkv_bias=bias) | _norm("norm")
    for number in range(DEPTH):
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH : 2 * WIDTH] = 0
        state[f"blocks.{number}.attn.qkv.bias_mask"] = mask
        state[f"blocks.{number}.attn.qkv.bias"] *= mask
    return state


def pe_file() -> State:
    """As facebookresearch/perception_models saves PE-Spatial's vision tower."""
    state = {
        "visual.class_embedding": torch.randn(WIDTH),
        "visual.positional_embedding": torch.randn(1 + 32**2, WIDTH),
        "visual.conv1.weight": torch.randn(WIDTH, 3, 16, 16) * 0.1,
    }
    blocks = _blocks("visual.transformer.resblocks.", PE_NAMES)
    return state | blocks | _norm("visual.ln_pre")


def eva02_file() -> State:
    """As baaivision/EVA saves the small EVA-02 after masked-image pre-training."""
    hidden, state = (
        64,
        {
            "cls_token": torch.randn(1, 1, WIDTH),
            "mask_token": torch.zeros(1, 1, WIDTH),
            "pos_embed": torch.randn(1, 1 + 16**2, WIDTH),
            "patch_embed.proj.weight": torch.randn(WIDTH, 3, 14, 14) * 0.1,
            "patch_embed.proj.bias": torch.randn(WIDTH),
            "rope.freqs_cos": torch.zeros(256, WIDTH // HEADS),
            "rope.freqs_sin": torch.zeros(256, WIDTH // HEADS),
            "lm_head.weight": torch.zeros(8, WIDTH),
            "lm_head.bias": torch.zeros(8),
        },
    )
    for number in range(DEPTH):
        start = f"blocks.{number}."
        state |= _norm(f"{start}norm1") | _norm(f"{start}norm2")
        state |= _linear(f"{start}attn.qkv", 3 * WIDTH, WIDTH, bias=False)
        state[f"{start}attn.q_bias"] = torch.randn(WIDTH)
        state[f"{start}attn.v_bias"] = torch.randn(WIDTH)
        state |= _linear(f"{start}attn.proj", WIDTH, WIDTH)
        state |= _linear(f"{start}mlp.w12", 2 * hidden, WIDTH)
        state |= _linear(f"{start}mlp.w3", WIDTH, hidden)
    return state | _norm("norm")


FILES: dict[str, tuple[str, State, dict[str, Any]]] = {
    "dinov2": ("vit_small_patch14_dinov2", dinov2_file(), SMALL),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", dinov2_file(registers=4), SMALL),
    "dinov2_smaller_table": ("vit_small_patch14_dinov2", dinov2_file(grid=16), SMALL),
    "dinov3": ("vit_large_patch16_dinov3", dinov3_file(bias=False), SMALL),
    "dinov3_biases": ("vit_small_patch16_dinov3_qkvb", dinov3_file(bias=True), SMALL),
    "tipsv2": ("vit_base_patch14_reg1_tipsv2", tipsv2_file(), SMALL),
    "pe_spatial": ("vit_pe_spatial_tiny_patch16_512", pe_file(), SMALL),
    "eva02": ("eva02_tiny_patch14_336", eva02_file(), {**SMALL, "mlp_ratio": 64 / WIDTH}),
}
"""timm's network, a file of its family, timm's options that make it as small."""


@pytest.mark.parametrize("family", FILES)
def test_files_of_each_family_compute_what_timm_does(family: str, tmp_path: Path) -> None:
    name, state, options = FILES[family]
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    encoder: Any = ViTEncoder(name, **options).eval()
    report = encoder.load(read_weights(path))
    assert report.loaded == len(encoder.backbone.state_dict())
    whole: Any = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 0},
        num_classes=0,
        dynamic_img_size=True,
        **options,
    ).eval()
    images = torch.randn(1, 3, 4 * encoder.patch_px, 2 * encoder.patch_px)
    with torch.no_grad():
        tokens = whole.forward_features(images)[:, whole.num_prefix_tokens :]
        stages = encoder(images)
    assert torch.equal(stages[-1].flatten(2).transpose(1, 2), tokens)
    assert tokens.std() > 0.01


HUB_NAMES = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "storage_tokens": "embeddings.register_tokens",
}


def hub_file(state: State, version: int) -> State:
    """A file of DINOv2's or DINOv3's own names as transformers' Dinov2Model, DINOv3ViTModel or
    their versions with registers save it: a list of all names but those that they compute."""
    first = version == 2
    conv = "embeddings.patch_embeddings." + ("projection." if first else "")
    blocks, norm = ("encoder.layer.", "layernorm.") if first else ("layer.", "norm.")
    parts = [f"attention.{one}" for one in ("query", "key", "value")]
    parts = parts if first else ["q_proj", "k_proj", "v_proj"]
    inner = {
        "attn.proj.": "attention.output.dense." if first else "attention.o_proj.",
        "mlp.fc1.": "mlp.fc1." if first else "mlp.up_proj.",
        "mlp.fc2.": "mlp.fc2." if first else "mlp.down_proj.",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    made: State = {}
    for key, tensor in state.items():
        if key.startswith(("rope_embed", "norm.")) or key.endswith("bias_mask"):
            made |= {norm + key.removeprefix("norm."): tensor} if key.startswith("norm.") else {}
        elif key.startswith("patch_embed.proj."):
            made[conv + key.removeprefix("patch_embed.proj.")] = tensor
        elif key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            start = f"{blocks}{number}."
            if rest.startswith("attn.qkv."):
                end = rest.removeprefix("attn.qkv.")
                named = zip(parts, tensor.chunk(3), strict=True)
                made |= {f"{start}attention.{part}.{end}": one.clone() for part, one in named}
            else:
                beginning = next((one for one in inner if rest.startswith(one)), "")
                made[start + inner.get(beginning, "") + rest.removeprefix(beginning)] = tensor
        else:
            made[HUB_NAMES[key]] = tensor
    return {key: one for key, one in made.items() if not key.endswith("k_proj.bias")}


@pytest.mark.parametrize("prefix", ["", "dinov2."])
@pytest.mark.parametrize(
    "family", ["dinov2", "dinov2_registers", "dinov2_smaller_table", "dinov3", "dinov3_biases"]
)
def test_the_hub_s_names_are_the_same_weights(family: str, prefix: str) -> None:
    name, state, options = FILES[family]
    hub = {f"{prefix}{key}": one for key, one in hub_file(state, int(family[5])).items()}
    assert set(hub) & set(state) <= {"norm.weight", "norm.bias"}, "names are others"
    encoders = []
    for file in (state, hub):
        torch.manual_seed(0)
        encoders.append(ViTEncoder(name, **options))
        encoders[-1].load(file)
    expected, found = (one.state_dict() for one in encoders)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_the_hub_s_names_of_gated_layers() -> None:
    """Of DINOv2 giant two in one, of DINOv3 huge+ and 7B each by itself."""
    ones = torch.ones(2, 2)
    start = {"embeddings.cls_token": ones}
    second = start | {"embeddings.position_embeddings": ones}
    second |= {f"encoder.layer.3.mlp.{one}.weight": ones for one in ("weights_in", "weights_out")}
    assert set(in_own_names(second)) >= {"blocks.3.mlp.w12.weight", "blocks.3.mlp.w3.weight"}
    third = {f"layer.3.mlp.{one}_proj.bias": ones for one in ("gate", "up", "down")}
    named = {f"blocks.3.mlp.w{one}.bias" for one in (1, 2, 3)}
    assert set(in_own_names(start | third)) == {"cls_token", *named}


def test_a_stranger_in_a_hub_s_file_is_named() -> None:
    stranger = {**hub_file(dinov2_file(), 2), "encoder.layer.0.stranger": torch.zeros(2)}
    with pytest.raises(JobError, match=r"unexpected: blocks.0.stranger"):
        ViTEncoder("vit_small_patch14_dinov2", **SMALL).load(stranger)


@pytest.mark.parametrize("family", FILES)
def test_no_tensor_of_a_file_is_left_out_unknown(family: str) -> None:
    name, state, options = FILES[family]
    stranger = {**state, "blocks.0.stranger.weight": torch.zeros(2)}
    if family in ("tipsv2", "pe_spatial"):
        prefix = {"tipsv2": "vision_encoder.", "pe_spatial": "visual.transformer.res"}[family]
        stranger = {**state, f"{prefix}blocks.0.stranger.weight": torch.zeros(2)}
    with pytest.raises(JobError, match=r"unexpected: blocks.0.stranger.weight.*name the encoder"):
        ViTEncoder(name, **options).load(stranger)


def test_timms_own_files_load_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole: Any = timm.create_model("vit_small_patch14_dinov2", num_classes=7, **SMALL).eval()
    path = tmp_path / "model.safetensors"
    save_file(whole.state_dict(), path)
    encoder: Any = ViTEncoder("vit_small_patch14_dinov2", **SMALL).eval()
    report = encoder.load(read_weights(path))
    assert sorted(report.dropped) == ["head.bias", "head.weight"]
    images = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        tokens = whole.forward_features(images)[:, 1:]
        assert torch.equal(encoder(images)[-1].flatten(2).transpose(1, 2), tokens)


def test_patch_kernels_are_resized_bicubically() -> None:
    state = dinov2_file()
    encoder: Any = ViTEncoder("vit_small_patch14_dinov2", patch_px=16, **SMALL)
    encoder.load(state)
    kernels = state["patch_embed.proj.weight"]
    expected = F.interpolate(kernels, size=(16, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(encoder.backbone.patch_embed.proj.weight.data, expected)
    assert torch.equal(encoder.backbone.pos_embed.data, state["pos_embed"])


def test_a_pyramid_takes_the_same_files() -> None:
    pyramid: Any = ResizePyramid("vit_small_patch14_reg4_dinov2", 32, **SMALL)
    report = pyramid.load(dinov2_file(registers=4))
    assert report.loaded == len(pyramid.backbone.state_dict())
    assert pyramid.backbone.patch_embed.proj.weight.shape[-2:] == (16, 16)


def test_tables_of_another_grid_are_resized_bicubically() -> None:
    state = dinov2_file(grid=16)
    encoder: Any = ViTEncoder("vit_small_patch14_dinov2", **SMALL)
    encoder.load(state)
    table = state["pos_embed"][:, 1:].reshape(1, 16, 16, WIDTH).permute(0, 3, 1, 2)
    larger = F.interpolate(table, size=(37, 37), mode="bicubic", antialias=True)
    expected = larger.permute(0, 2, 3, 1).reshape(1, 37 * 37, WIDTH)
    torch.testing.assert_close(encoder.backbone.pos_embed.data[:, 1:], expected)
    assert torch.equal(encoder.backbone.pos_embed.data[:, :1], state["pos_embed"][:, :1])


def test_dinov3s_biases_are_not_lost_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    message = r"expected a network with biases .*_dinov3'. Fix: set .*vit_small_patch16_dinov3_qkvb"
    with pytest.raises(JobError, match=message):
        ViTEncoder("vit_small_patch16_dinov3", **SMALL).load(dinov3_file(bias=True))
    ViTEncoder("vit_small_patch16_dinov3", **SMALL).load(dinov3_file(bias=False))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "state",
    [
        timm.create_model("test_resnet").state_dict(),
        {"mask_token": torch.zeros(1), "register_tokens": torch.zeros(1)},
        {"conv1.weight": torch.zeros(2, 3, 8, 8)},
        {"patch_embed.proj.weight": torch.zeros(2), "pos_embed": torch.zeros(3)},
        {},
    ],
    ids=["resnet", "damaged_dinov2", "clip", "odd_shapes", "empty"],
)
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
def test_files_of_other_networks_are_refused(name: str, state: State) -> None:
    with pytest.raises(JobError, match=f"model.weights_uri: expected weights of encoder '{name}'"):
        ViTEncoder(name, **SMALL).load(state)


def test_the_hub_is_asked_by_the_name_and_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    message = r"weights of 'vit_small_patch14_dinov2.lvd142m' from timm's hub, got none \(.*"
    with pytest.raises(JobError, match=message):
        build_segmenter({"architecture": "deeplab_v2", "encoder": "vit_small_patch14_dinov2"})
