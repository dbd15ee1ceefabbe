"""Adapters in encoders: which layers get them, what trains, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.models import ModelSection, build_encoder, build_segmenter
from adapt.models.adapters.attach import ADAPTERS, adapted, attach, merge, num_trained, start
from adapt.models.adapters.config import TARGETS, AdapterConfig
from adapt.models.encoders.vit import ViTEncoder
from adapt.models.segmenter import Segmenter

torch.set_num_threads(1)
MODEL = {"architecture": "deeplab_v2", "encoder": "test_vit", "output_stride": 16}
FAMILIES = (
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_base_patch14_reg1_tipsv2",
    "vit_pe_spatial_tiny_patch16_512",
    "eva02_tiny_patch14_336",
    "deit3_small_patch16_224",
)


def network(adapters: Any, start_adapters: bool = True) -> Segmenter:
    torch.manual_seed(0)
    values = {**MODEL, "weights": "none", "adapters": adapters}
    model = validate(ModelSection, values, "model")
    return build_segmenter(model, 4, start_adapters=start_adapters)


def trained(network: nn.Module) -> set[str]:
    return {name for name, one in network.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_last_two_thirds_are_adapted_and_all_else_of_the_encoder_is_frozen(kind: str) -> None:
    encoder = network({"kind": kind, "rank": 2}).encoder
    number = {id(layer): n for n, block in enumerate(encoder.blocks()) for layer in block.modules()}
    layers = list(adapted(encoder))
    paths = [TARGETS[name].path for name in ("qkv", "proj", "fc1", "fc2")]
    assert [number[id(layer)] for _, layer in layers] == [n for n in range(2, 6) for _ in paths]
    assert all(name.endswith(tuple(paths)) for name, _ in layers)
    parts = ("down", "up", "bias")
    assert trained(encoder) == {f"{name}.{part}" for name, _ in layers for part in parts}


def test_blocks_and_targets_are_chosen() -> None:
    encoder = network({"kind": "lora", "blocks": [0, 1], "targets": ["fc2", "qkv"]}).encoder
    found = [name.split("blocks.")[1] for name, _ in adapted(encoder)]
    assert sorted(found) == ["0.attn.qkv", "0.mlp.fc2", "1.attn.qkv", "1.mlp.fc2"]
    assert {layer.parts for name, layer in adapted(encoder) if "qkv" in name} == {3}


def test_a_large_vit_has_as_many_numbers_as_the_paper_s() -> None:
    """Rank 16 in blocks 8 to 23 of ViT-L: frontier.md counts 4.7 million."""
    with torch.device("meta"):
        encoder = build_encoder("vit_large_patch14_dinov2", 16)
        attach(encoder, AdapterConfig(kind="soma"))
        start(encoder)
    pairs = 4 * (1024 + 1024) + 2 * (1024 + 4096)  # q, k, v and proj; fc1 and fc2
    assert num_trained(encoder) == 16 * 16 * pairs == 4_718_592
    assert len(list(adapted(encoder))) == 64


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_through_every_adapter(name: str) -> None:
    """Some attentions read their layer's weight and pass by the layer."""
    torch.manual_seed(0)
    encoder = ViTEncoder(name, 16, depth=2, embed_dim=32, num_heads=2).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = encoder(images)[-1]
        attach(encoder, AdapterConfig(kind="lora", rank=2, blocks=(1, 1)))
        torch.testing.assert_close(encoder(images)[-1], before, rtol=0, atol=1e-6)
        start(encoder)
    encoder(images)[-1].square().sum().backward()
    gradients = {key: layer.up.grad for key, layer in adapted(encoder)}
    assert len(gradients) == 4
    for key, gradient in gradients.items():
        assert gradient is not None and gradient.abs().amax(dim=(1, 2)).min() > 0, key


def test_biases_beside_a_layer_train_with_it() -> None:
    with torch.device("meta"):
        encoder = build_encoder("vit_small_patch16_dinov3_qkvb", 16)
        attach(encoder, AdapterConfig(kind="lora", blocks=(11, 11), targets=("qkv",)))
    names = {name.partition("blocks.11.attn.")[2] for name in trained(encoder)}
    assert names == {"q_bias", "v_bias", "qkv.down", "qkv.up"}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_output_stays_at_the_start_and_after_a_merge(kind: str) -> None:
    images = torch.randn(2, 3, 48, 64)
    adapters = {"kind": kind, "rank": 4, "alpha": 6}
    plain = network(adapters, start_adapters=False).eval()
    given = network(adapters).eval()
    state = plain.state_dict()
    assert state.keys() == given.state_dict().keys()
    with torch.no_grad():
        expected = plain(images).logits[0]
        torch.testing.assert_close(given(images).logits[0], expected, rtol=0, atol=1e-6)
        for _, layer in adapted(given):
            nn.init.normal_(layer.up, std=0.05)
        moved = given(images).logits[0]
        assert (moved - expected).abs().max() > 1e-3
        given.merge_adapters()
        torch.testing.assert_close(given(images).logits[0], moved, rtol=0, atol=1e-6)
    assert given.config.adapters is None and not list(adapted(given))
    values = {**MODEL, "weights": "none"}
    assert given.state_dict().keys() == build_segmenter(values, 4).state_dict().keys()


def test_adapters_start_from_weights_of_a_network_without_any() -> None:
    values = {**MODEL, "weights": "none"}
    torch.manual_seed(5)
    plain, images = build_segmenter(values, 4).eval(), torch.randn(1, 3, 32, 32)
    given = network({"kind": "soma", "rank": 4}).eval()
    given.load_weights(plain.state_dict())
    assert not any(layer.started for _, layer in adapted(given))
    with torch.no_grad():
        assert torch.equal(given(images).logits[0], plain(images).logits[0])
        given.start_adapters()
        close: dict[str, Tensor] = {"actual": given(images).logits[0]}
        torch.testing.assert_close(**close, expected=plain(images).logits[0], rtol=0, atol=1e-6)
    again = network({"kind": "soma", "rank": 4})
    again.load_weights(given.state_dict())
    assert all(layer.started for _, layer in adapted(again))


@pytest.mark.parametrize(
    ("encoder", "adapters", "message"),
    [
        ("resnet18", {}, r"adapters: expected a vision transformer, got encoder 'resnet18'"),
        (
            "test_vit",
            {"blocks": [2, 6]},
            r"adapters.blocks: expected numbers up to 5, .* 'test_vit', got 6",
        ),
        (
            "test_vit",
            {"rank": 65},
            r"adapters.rank: expected at most 64, the smaller side of qkv .* got 65",
        ),
        (
            "vit_huge_plus_patch16_dinov3",
            {},
            r"adapters.targets: expected layers .* which have attn.qkv, attn.proj, mlp.fc1_g, "
            r"mlp.fc1_x, mlp.fc2, got fc1 \(mlp.fc1\). Fix: set model.adapters.targets: "
            r"\[qkv, proj, fc1_g, fc1_x, fc2\]",
        ),
    ],
)
def test_what_an_encoder_lacks_is_refused(
    encoder: str, adapters: dict[str, Any], message: str
) -> None:
    with torch.device("meta"):
        built = build_encoder(encoder, 16)
        with pytest.raises(JobError, match=rf"^model\.{message}"):
            attach(built, AdapterConfig(kind="lora", **adapters))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ({"kind": "dora"}, r"^model.*adapters.kind: "),
        ({"kind": "lora", "blocks": [5, 2]}, r"expected the first and the last, got \[5, 2\]"),
        ({"kind": "lora", "targets": ["mlp"]}, r"adapters.targets"),
        ({"kind": "lora", "rank": 0}, r"adapters.rank"),
    ],
)
def test_values_that_make_no_adapters_are_refused(adapters: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        network(adapters)


def test_a_merge_of_nothing_changes_nothing() -> None:
    plain = build_encoder("test_vit", 16)
    before = list(plain.modules())
    merge(plain)
    assert list(plain.modules()) == before
