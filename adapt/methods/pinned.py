"""A frozen network that teaches, which checkpoints do not have: they have its sha256 alone.

A large teacher would be most of every checkpoint and never changes. A resumed job reads it again
from where the spec says, and is refused where it is another one.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adapt.errors import JobError

BYTES = hashlib.sha256().digest_size


class Pinned(nn.Module):
    """Holds a network in evaluation, out of reach of optimizers, averages and checkpoints.

    `key` names it in the job spec. The buffer `sha256` is that of its tensors, 0 where they have no
    values.
    """

    sha256: Tensor

    def __init__(self, network: nn.Module, key: str) -> None:
        super().__init__()
        self.key = key
        self._held = (network.requires_grad_(False).eval(),)  # in a tuple: not a sub-module
        self.register_buffer("sha256", digest_of(network))

    @property
    def network(self) -> Any:
        """The network, on this module's device."""
        return self._held[0]

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> "Pinned":
        """Moves and conversions are the network's too."""
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *given: Any) -> None:
        """Raise `JobError` for the checkpoint of a job with another network."""
        saved = state_dict.get(f"{prefix}sha256")
        if saved is not None and not torch.equal(saved.cpu(), self.sha256.cpu()):
            raise JobError(
                f"{self.key}: expected the weights that the run began with, of sha256 "
                f"{_written(saved)}, got others, of {_written(self.sha256)}",
                fix="name the first ones again, rename the run, or start over with --fresh",
            )
        super()._load_from_state_dict(state_dict, prefix, *given)


def pinned_networks(module: nn.Module) -> list[nn.Module]:
    """The networks that are held within a module."""
    return [one.network for one in module.modules() if isinstance(one, Pinned)]


def with_pinned(module: nn.Module) -> nn.ModuleList:
    """A module and the networks that are held within it."""
    return nn.ModuleList([module, *pinned_networks(module)])


def digest_of(network: nn.Module) -> Tensor:
    """SHA-256 of a network's tensors and their names, (32,) uint8; 0 where they have no values."""
    state = network.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        return torch.zeros(BYTES, dtype=torch.uint8)
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _written(sha256: Tensor) -> str:
    return bytes(sha256.tolist()).hex()[:12]
