"""Names of the files of DINOv2 and DINOv3 that the library transformers reads and writes, as the
hub has them, in the names of the families' own files.

Queries, keys and values stand in three layers there; DINOv3's keys have no bias, which is 0 in its
own files.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "embeddings.cls_token"
"""The end of a name that only these files have; before it stands what all names begin with."""

PARTS = ("query", "key", "value")

_RULES: tuple[tuple[str, str], ...] = (
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(?:encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)
_PLAIN = ((r"\.mlp\.up_proj\.", ".mlp.fc1."), (r"\.mlp\.down_proj\.", ".mlp.fc2."))
_GATED = (
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    (r"\.mlp\.up_proj\.", ".mlp.w2."),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
)


def in_own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the family's own names; those of other files as they are."""
    start = next((key.removesuffix(MARK) for key in state if key.endswith(MARK)), None)
    if start is None:
        return dict(state)
    given = {key.removeprefix(start): tensor for key, tensor in state.items()}
    has_table = any(key.endswith("position_embeddings") for key in given)
    gated = any(".mlp.gate_proj." in key for key in given)
    rules = (*_RULES, *(_GATED if gated else _PLAIN))
    if not has_table:
        rules = ((r"^embeddings\.register_tokens$", "storage_tokens"), *rules)
    return _joined({_renamed(key, rules): tensor for key, tensor in given.items()})


def _renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    return key


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the three layers of each block's attention as one."""
    joined = {}
    for key, tensor in state.items():
        start, found, end = key.partition(".attn.query.")
        if found:
            parts = [state.get(f"{start}.attn.{part}.{end}") for part in PARTS]
            whole = [torch.zeros_like(tensor) if part is None else part for part in parts]
            joined[f"{start}.attn.qkv.{end}"] = torch.cat(whole)
        elif not any(f".attn.{part}." in key for part in PARTS):
            joined[key] = tensor
    return joined
