"""Adapters in an encoder: attached to the layers that the spec names, started, merged again.

What trains and what is frozen is as in SoMA's program for both kinds: adapters and the biases of
adapted layers train; norms, scales, patch embedding and position table do not.
"""

import logging
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from adapt.errors import JobError
from adapt.models.adapters.config import TARGETS, AdapterConfig
from adapt.models.adapters.low_rank import AdaptedLinear, LoRA, SoMA
from adapt.models.encoders.encoder import Encoder

log = logging.getLogger(__name__)

ADAPTERS: dict[str, type[AdaptedLinear]] = {"lora": LoRA, "soma": SoMA}
"""By the spec's `model.adapters.kind`."""

KEY = "model.adapters"


def attach(encoder: Encoder, config: AdapterConfig) -> None:
    """Freeze an encoder and put adapters, not started yet, into the layers that the config names.

    Raises `JobError` where its blocks have no such layers, or layers smaller than the rank.
    """
    encoder.requires_grad_(False)
    for block in _chosen(encoder, config):
        for name in config.targets:
            _adapt(block, name, config, encoder.name)


def start(network: nn.Module) -> None:
    """Start the adapters that have no values yet, from the weights that their layers have."""
    waiting = [(name, layer) for name, layer in adapted(network) if not layer.started]
    if waiting:
        count = f"{len(waiting)} adapters of {num_trained(network):,} numbers"
        log.info("%s are attached", count)
    for number, (name, layer) in enumerate(waiting, start=1):
        log.debug("adapter %d of %d: %s", number, len(waiting), name)
        layer.start()


def merge(network: nn.Module) -> None:
    """Put plain layers, which compute the same, in the place of adapted ones."""
    for name, layer in list(adapted(network)):
        network.set_submodule(name, layer.merged())


def adapted(network: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """Names and layers of a network that have an adapter."""
    for name, module in network.named_modules():
        if isinstance(module, AdaptedLinear):
            yield name, module


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's adapters by name, without those that the layers had before."""
    return {
        f"{name}.{key}": tensor
        for name, layer in adapted(network)
        for key, tensor in layer.state_dict().items()
        if key not in ("weight", "bias")
    }


def num_trained(network: nn.Module) -> int:
    """Numbers in the adapters, A and B, of a network."""
    return sum(layer.down.numel() + layer.up.numel() for _, layer in adapted(network))


def _chosen(encoder: Encoder, config: AdapterConfig) -> list[nn.Module]:
    """The blocks that the config names, of those that the encoder has."""
    blocks = encoder.blocks()
    if not any(linear_layers(block) for block in blocks):
        raise JobError(
            f"{KEY}: expected a vision transformer, got encoder {encoder.name!r}, whose blocks "
            "have no linear layers",
            "name one as model.encoder, such as vit_base_patch14_dinov2, or remove model.adapters",
        )
    first, last = config.blocks or (len(blocks) // 3, len(blocks) - 1)
    if last >= len(blocks):
        raise JobError(
            f"{KEY}.blocks: expected numbers up to {len(blocks) - 1}, the last block of encoder "
            f"{encoder.name!r}, got {last}"
        )
    return blocks[first : last + 1]


def linear_layers(block: nn.Module) -> list[str]:
    """The names of a block's linear layers."""
    return [name for name, part in block.named_modules() if isinstance(part, nn.Linear)]


def _adapt(block: nn.Module, name: str, config: AdapterConfig, encoder: str) -> None:
    target, layers = TARGETS[name], linear_layers(block)
    if target.path not in layers:
        known = [key for key, row in TARGETS.items() if row.path in layers]
        others = f"set {KEY}.targets: [{', '.join(known)}]" if known else "name another encoder"
        raise JobError(
            f"{KEY}.targets: expected layers of the blocks of encoder {encoder!r}, which have "
            f"{', '.join(layers)}, got {name} ({target.path})",
            others,
        )
    layer = block.get_submodule(target.path)
    assert isinstance(layer, nn.Linear)
    most = min(layer.in_features, layer.out_features // target.parts)
    if config.rank > most:
        raise JobError(
            f"{KEY}.rank: expected at most {most}, the smaller side of {name} in encoder "
            f"{encoder!r}, got {config.rank}"
        )
    row = ADAPTERS[config.kind]
    block.set_submodule(target.path, row(layer, target.parts, config.rank, config.scale))
    _free_biases(block, target.path, target.biases)


def _free_biases(block: nn.Module, path: str, names: tuple[str, ...]) -> None:
    """Let the biases that a block keeps beside its layer train with it.

    Such blocks may read the layer's weight and pass by the layer: they are told to call it.
    """
    for name, parameter in block.named_parameters():
        if name in names:
            parameter.requires_grad_(True)
    owner: Any = block.get_submodule(path.rpartition(".")[0])
    if hasattr(owner, "qkv_bias_separate"):
        owner.qkv_bias_separate = True
