"""Activation checkpointing (Chen, Xu, Zhang & Guestrin, Training Deep Nets with Sublinear Memory
Cost, 2016): what an encoder's blocks compute is dropped after the forward pass, but for their
inputs, and computed again in the backward pass.

Losses and gradients are the same bit for bit: dropout is drawn again as it was, and batch norm
moves its running statistics in the forward pass alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from adapt.errors import JobError
from adapt.models.encoders.encoder import Encoder

Context = Callable[[], AbstractContextManager[Any]]

KEY = "train.activation_checkpointing"


def checkpoint_blocks(encoder: Encoder, within: Context = nullcontext) -> None:
    """Have each block of the encoder compute again in the backward pass, there `within` a context
    that the forward pass has too.

    Raises `JobError` for an encoder without blocks.
    """
    for block in checkpointed_blocks(encoder):
        _checkpoint(block, within)


def checkpointed_blocks(encoder: Encoder) -> list[nn.Module]:
    """The encoder's blocks; single layers, whose input is all that they keep, are none.

    Raises `JobError` for an encoder without blocks.
    """
    blocks = [block for block in encoder.blocks() if any(block.children())]
    if not blocks:
        raise JobError(
            f"{KEY}: expected none with encoder {encoder.name!r}, which has no blocks but single "
            "layers, got blocks",
            fix=f"set {KEY}: none, and raise train.accumulate to save memory",
        )
    return blocks


def _checkpoint(block: nn.Module, within: Context) -> None:
    forward = block.forward
    again = partial(
        checkpoint,
        forward,
        use_reentrant=False,
        early_stop=False,  # or hooks after a norm's forward pass would not run
        context_fn=lambda: (nullcontext(), _second_time(block, within)),
    )

    def either(*inputs: Any, **named: Any) -> Any:
        return (again if torch.is_grad_enabled() else forward)(*inputs, **named)

    block.forward = either


@contextmanager
def _second_time(block: nn.Module, within: Context) -> Iterator[None]:
    """Within it batch norm moves copies of its running statistics.

    Raises `JobError` where another layer moves a buffer of its own.
    """
    norms = [one for one in block.modules() if isinstance(one, _BatchNorm)]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    versions = _versions(block)
    for norm, buffers in zip(norms, kept, strict=True):
        _set(norm, {name: buffer.clone() for name, buffer in buffers.items()})
    try:
        with within():
            yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            _set(norm, buffers)
    if _versions(block) != versions:
        raise JobError(
            f"{KEY}: expected blocks in which batch norm alone moves its statistics, got "
            f"{type(block).__name__}, which would move others twice",
            fix=f"set {KEY}: none",
        )


def _set(norm: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        setattr(norm, name, buffer)


def _versions(block: nn.Module) -> list[int]:
    """How often each buffer was written to."""
    return [buffer._version for buffer in block.buffers()]


CHECKPOINTING: dict[str, Callable[[Encoder, Context], None]] = {
    "none": lambda _encoder, _within: None,
    "blocks": checkpoint_blocks,
}
"""By the spec's `train.activation_checkpointing`: what is done to the network's encoder."""
