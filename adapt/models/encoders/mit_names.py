"""The names of MiT's tensors: NVIDIA's, which are ours, and those of Hugging Face's hub.

The hub's files count stages from 0, say `layer_norm` and `dense`, and hold keys and values apart.
Files of whole SegFormers have a prefix before them, and a head beside.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIXES = ("segformer.encoder.", "encoder.", "backbone.")
OTHER_PARTS = ("head.", "classifier.", "decode_head.", "auxiliary_head.")

HUB_PARTS = (
    (r"^patch_embeddings\.(\d)\.layer_norm\.", r"patch_embeddings.\1.norm."),
    (r"\.layer_norm_(\d)\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.(key|value)\.", r".attn.\1."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
)
"""Parts of the hub's names and of ours, all but the stages."""

HUB_STAGES = {"patch_embeddings": "patch_embed", "block": "block", "layer_norm": "norm"}
"""The word before the number of a stage, theirs and ours."""


def encoders_own(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The encoder's tensors by our names, and the names that belong to heads.

    Names that neither NVIDIA nor the hub has stay as they are.
    """
    bare = {_without_prefix(key): (key, tensor) for key, tensor in state.items()}
    dropped = tuple(key for name, (key, _) in bare.items() if name.startswith(OTHER_PARTS))
    own = {_own_name(name): tensor for name, (key, tensor) in bare.items() if key not in dropped}
    return _joined(own), dropped


def _without_prefix(key: str) -> str:
    prefix = next((one for one in PREFIXES if key.startswith(one)), "")
    return key.removeprefix(prefix)


def _own_name(name: str) -> str:
    for theirs, ours in HUB_PARTS:
        name = re.sub(theirs, ours, name)
    found = re.match(rf"({'|'.join(HUB_STAGES)})\.(\d)\.", name)
    if found is None:
        return name
    return f"{HUB_STAGES[found[1]]}{int(found[2]) + 1}.{name[found.end() :]}"


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each pair `attn.key`, `attn.value` as one `attn.kv`, keys first."""
    joined = dict(tensors)
    for name in tensors:
        before, found, after = name.partition(".attn.key.")
        value = f"{before}.attn.value.{after}"
        if found and value in joined:
            joined[f"{before}.attn.kv.{after}"] = torch.cat([joined.pop(name), joined.pop(value)])
    return joined
