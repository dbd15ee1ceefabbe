"""The job spec's `model.adapters`."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from adapt.config.section import Section


class Target(NamedTuple):
    """A row of `TARGETS`: a layer's name within a block, how many layers are fused in it, each of
    which is adapted for itself, and biases that the block keeps elsewhere."""

    path: str
    parts: int = 1
    biases: tuple[str, ...] = ()


TARGETS = {
    "qkv": Target("attn.qkv", parts=3, biases=("attn.q_bias", "attn.v_bias")),
    "q_proj": Target("attn.q_proj"),
    "k_proj": Target("attn.k_proj"),
    "v_proj": Target("attn.v_proj"),
    "proj": Target("attn.proj"),
    "fc1": Target("mlp.fc1"),
    "fc1_g": Target("mlp.fc1_g"),
    "fc1_x": Target("mlp.fc1_x"),
    "fc2": Target("mlp.fc2"),
}
"""By the spec's `model.adapters.targets`, as timm names them."""

TargetName = Literal["qkv", "q_proj", "k_proj", "v_proj", "proj", "fc1", "fc1_g", "fc1_x", "fc2"]
Number = Annotated[int, Field(ge=0)]


class AdapterConfig(Section):
    """Low-rank adapters of a vision transformer; the encoder is frozen but for them and the biases
    of the adapted layers."""

    kind: Literal["lora", "soma"] = Field(
        description="lora: B starts at 0 (Hu et al., ICLR 2022); soma: from the smallest singular "
        "values of the weights, which are subtracted from them (SoMA, CVPR 2025). The first output "
        "is that of the weights alone either way.",
    )
    rank: int = Field(16, ge=1, description="Rank of B A (SoMA: 16).")
    alpha: float = Field(16.0, gt=0, description="B A counts alpha / rank times (SoMA: 16).")
    blocks: tuple[Number, Number] | None = Field(
        None,
        description="First and last adapted block, from 0; null: the last two thirds, 8 to 23 of "
        "24 (SoMA).",
    )
    targets: tuple[TargetName, ...] = Field(
        ("qkv", "proj", "fc1", "fc2"),
        min_length=1,
        description="Adapted layers of a block (SoMA: these). Blocks with SwiGLU have fc1_g and "
        "fc1_x in place of fc1; a fused qkv gets a pair for each of q, k and v.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "AdapterConfig":
        if self.blocks is not None and self.blocks[0] > self.blocks[1]:
            raise ValueError(
                f"blocks: expected the first and the last, got {list(self.blocks)} in which the "
                "first is later"
            )
        return self

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank
