"""Tables of positions in exported programs: those that timm resizes."""

import pytest
import timm.models.vision_transformer as of_timm
import torch
from timm.layers import resample_abs_pos_embed

from adapt.export.position_tables import resized, tables_by_products


@pytest.mark.parametrize("new_hw", [(7, 11), (10, 10), (23, 4), (1, 30)], ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_they_are_timms(new_hw: tuple[int, int], prefix: int) -> None:
    torch.manual_seed(0)
    table = torch.randn(1, prefix + 10 * 9, 8)
    expected = resample_abs_pos_embed(
        table, list(new_hw), old_size=[10, 9], num_prefix_tokens=prefix
    )
    found = resized(table, new_hw, (10, 9), num_prefix_tokens=prefix, verbose=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_timm_has_its_own_again_afterwards() -> None:
    own = of_timm.resample_abs_pos_embed
    with pytest.raises(RuntimeError), tables_by_products():
        assert of_timm.resample_abs_pos_embed is resized
        raise RuntimeError
    assert of_timm.resample_abs_pos_embed is own
