"""Files of weights without their base: the encoder's frozen weights, which others published.

Such a file holds what was trained, adapters and head. Its header says where the base is and the
sha256 of those tensors, by name, whatever the file that has them: a copy of another format will do.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from adapt.config.section import Section
from adapt.config.validation import validate
from adapt.errors import JobError
from adapt.models.adapters.attach import adapted
from adapt.models.encoders.encoder import Encoder
from adapt.models.weights import read_entries
from storage.uris import without_password

BASE = "segadapt.base"
"""The header's entry."""


class Base(Section):
    """The weights that a file leaves out: timm's of the encoder, unless they are in a file.

    `bf16`: training held them in that type.
    """

    encoder: str
    weights_uri: str | None
    bf16: bool = False
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def entries(self) -> dict[str, str]:
        """The entry of a file's header that names this base."""
        return {BASE: json.dumps(self.model_dump(mode="json"))}


def base_of(encoder: Encoder, weights_uri: str | None, bf16: bool = False) -> Base:
    """The base that an encoder, whose adapters are not started, has at `weights_uri`."""
    address = None if weights_uri is None else without_password(weights_uri.partition("?")[0])
    found = sha256_of_tensors(encoder, frozen_names(encoder))
    return Base(encoder=encoder.name, weights_uri=address, sha256=found, bf16=bf16)


def read_base(path: Path, key: str) -> Base | None:
    """The base that a file of weights leaves out; None where it leaves out nothing."""
    text = read_entries(path, key).get(BASE)
    try:
        return None if text is None else validate(Base, json.loads(text), f"{key}: {BASE}")
    except ValueError as error:
        raise JobError(f"{key}: {BASE}: expected JSON, got {text!r:.50}") from error


def frozen_names(encoder: Encoder) -> frozenset[str]:
    """The names of the parameters of an encoder that do not train."""
    named = encoder.named_parameters()
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def sha256_of_tensors(network: nn.Module, names: Collection[str]) -> str:
    """The SHA-256 of tensors of a network by name: of names, types, shapes and bytes."""
    digest, tensors = hashlib.sha256(), network.state_dict()
    for name in sorted(names):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def without_base(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state of a network without what its encoders say that is left out."""
    left_out = set(_left_out(network))
    return {key: tensor for key, tensor in state.items() if key not in left_out}


def with_base(given: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state with what it leaves out, from the encoders of the network."""
    own = network.state_dict()
    missing = [key for key in _left_out(network) if key not in given and key in own]
    return {**given, **{key: own[key] for key in missing}}


@torch.no_grad()
def take_out(network: nn.Module, given: Mapping[str, Tensor], prefix: str = "") -> None:
    """Take out of a network's weights, the base's, what adapters whose state is given, under names
    that begin with `prefix`, took out of them at their start."""
    for name, layer in adapted(network):
        start = f"{prefix}{name}."
        own = {key.removeprefix(start): one for key, one in given.items() if key.startswith(start)}
        layer.weight.copy_(layer.frozen_weight(layer.weight, own))


def _left_out(network: nn.Module) -> Iterator[str]:
    """The names within a network: copies of an encoder leave out what it does."""
    for prefix, encoder in network.named_modules():
        if isinstance(encoder, Encoder):
            yield from (f"{prefix}.{name}" if prefix else name for name in encoder.left_out)
