"""Learning rates by layer: the deeper a block of the encoder, the faster it learns.

Clark et al., ELECTRA, ICLR 2020; for vision transformers Bao et al., BEiT, ICLR 2022. In between
blocks and after them a parameter counts as the block before it; what comes before the first, patch
embedding and position table, is one layer more.
"""

from torch import nn

from adapt.errors import JobError
from adapt.models.encoders.encoder import Encoder


def layer_shares(encoder: Encoder, decay: float) -> dict[nn.Parameter, float]:
    """The share of the encoder's rate that each of its parameters learns at: 1 in the last block,
    times `decay` for each block before it; what comes before the first counts as one block.

    Raises `JobError` for an encoder without blocks.
    """
    blocks = encoder.blocks()
    if not blocks:
        raise JobError(
            f"optim.layer_decay: expected an encoder of blocks, got {encoder.name!r}", "remove it"
        )
    depth_of = {
        parameter: depth
        for depth, block in enumerate(blocks, start=1)
        for parameter in block.parameters()
    }
    shares, depth = {}, 0
    for parameter in encoder.parameters():
        depth = depth_of.get(parameter, depth)
        shares[parameter] = decay ** (len(blocks) - depth)
    return shares
