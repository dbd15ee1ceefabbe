"""What ExFuse alone promises: products with deeper stages, sub-pixels, a pixel's neighbours."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapt.models import build_segmenter
from adapt.models.decoders.exfuse import DenselyAdjacentPrediction, SemanticEmbedding

torch.set_num_threads(1)
NUM_CLASSES = 5
HEADS = ["main", "aux_8", "aux_16"]


@pytest.fixture
def segmenter() -> Any:
    torch.manual_seed(0)
    values = {"architecture": "exfuse", "encoder": "resnet18", "weights": "none"}
    return build_segmenter(values, NUM_CLASSES).double().eval()


@pytest.fixture
def stages() -> list[Tensor]:
    """Those of an image of 33 x 65."""
    torch.manual_seed(1)
    sizes_hw = ((17, 33), (9, 17), (5, 9), (3, 5), (2, 3))
    rows = zip((64, 64, 128, 256, 512), sizes_hw, strict=True)
    return [_double(1, channels, *size_hw) for channels, size_hw in rows]


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@torch.no_grad()
def test_embedding_is_a_product() -> None:
    torch.manual_seed(0)
    embedding = SemanticEmbedding(4, [6, 3]).double().eval()
    for branch in embedding.branches:
        torch.nn.init.zeros_(branch[0].bias)  # a fresh branch is linear but for it
    stage, deeper = _double(2, 4, 8, 10), [_double(2, 6, 2, 3), _double(2, 3, 4, 5)]
    product = embedding(stage, deeper)
    assert product.all()
    for moved in (
        embedding(2 * stage, deeper),
        embedding(stage, [2 * deeper[0], deeper[1]]),
        embedding(stage, [deeper[0], 2 * deeper[1]]),
    ):
        torch.testing.assert_close(moved, 2 * product)
    assert not embedding(stage, [0 * deeper[0], deeper[1]]).any()
    assert torch.equal(SemanticEmbedding(4, [])(stage, []), stage)


@torch.no_grad()
def test_embedding_brings_each_deeper_stage_to_width_and_size() -> None:
    torch.manual_seed(0)
    embedding = SemanticEmbedding(4, [6, 3]).double().train()  # batch norm keeps bounds
    stage, deeper = _double(2, 4, 8, 10), [1e3 * _double(2, 6, 2, 3), 1e3 * _double(2, 3, 4, 5)]
    expected = stage
    for (conv, _), one in zip(embedding.branches, deeper, strict=True):
        branch = F.conv2d(one, conv.weight, conv.bias, padding=1)
        centred = branch - branch.mean(dim=(0, 2, 3), keepdim=True)
        normed = centred / centred.square().mean(dim=(0, 2, 3), keepdim=True).add(1e-5).sqrt()
        expected = expected * F.interpolate(normed, (8, 10), mode="bilinear")
    torch.testing.assert_close(embedding(stage, deeper), expected)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("moved", range(5))
def test_scores_are_embedded_in_all_deeper_stages_as_they_were(
    segmenter: Any, stages: list[Tensor], moved: int
) -> None:
    decoder, calls = segmenter.decoder, []
    for score in decoder.pyramid.scores:  # deepest first
        score.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    before, _ = decoder(torch.empty(1, 3, 33, 65), stages)
    for number, embed in enumerate(decoder.embeddings):
        deeper = stages[:0:-1][:number]
        assert torch.equal(calls[number], embed(stages[4 - number], deeper)), number
    stages[moved] = stages[moved] + 1
    after, _ = decoder(torch.empty(1, 3, 33, 65), stages)
    changed = [not torch.equal(one, other) for one, other in zip(calls[:4], calls[4:], strict=True)]
    assert changed == [number >= 4 - moved for number in range(4)]
    heads = zip(HEADS, before, after, strict=True)
    heads_read = {0: [], 1: ["main"], 2: HEADS[:2], 3: HEADS[:2], 4: HEADS}
    assert [name for name, one, other in heads if not torch.equal(one, other)] == heads_read[moved]


@torch.no_grad()
def test_deepest_scores_are_enlarged_by_sub_pixels(segmenter: Any, stages: list[Tensor]) -> None:
    decoder = segmenter.decoder
    (main, aux_8, aux_16), _ = decoder(torch.empty(1, 3, 33, 65), stages)
    assert [one.shape[-2:] for one in (main, aux_8, aux_16)] == [(33, 65), (5, 9), (4, 6)]
    maps = decoder.pyramid.enlarge[0](decoder.pyramid.scores[0](stages[4]))
    expected = torch.empty(1, NUM_CLASSES, 4, 6, dtype=torch.float64)
    for one in range(NUM_CLASSES):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            expected[:, one, row::2, column::2] = maps[:, 4 * one + 2 * row + column]
    torch.testing.assert_close(aux_16, expected)


@torch.no_grad()
def test_enlarged_scores_go_on_into_the_sum(segmenter: Any, stages: list[Tensor]) -> None:
    decoder, seen = segmenter.decoder, []
    decoder.pyramid.scores[1].register_forward_hook(lambda _, __, output: 0 * output)
    decoder.pyramid.sums[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits, _ = decoder(torch.empty(1, 3, 33, 65), stages)
    torch.testing.assert_close(seen[0], F.interpolate(logits[2], (3, 5), mode="bilinear"))


@torch.no_grad()
def test_dense_prediction_reads_each_map_at_one_neighbour() -> None:
    torch.manual_seed(0)
    predict, scores = DenselyAdjacentPrediction(3).double(), _double(2, 3, 4, 5)
    maps, expected = predict.conv(scores), torch.zeros_like(scores)
    assert maps.shape == (2, 27, 4, 5)
    for one, i, j in torch.cartesian_prod(*map(torch.arange, (3, 4, 5))).tolist():
        for row, column in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
            y, x = i + row - 1, j + column - 1
            if 0 <= y < 4 and 0 <= x < 5:
                expected[:, one, i, j] += maps[:, 9 * one + 3 * row + column, y, x] / 9
    torch.testing.assert_close(predict(scores), expected)
    assert not torch.allclose(predict(scores), maps.unflatten(1, (3, 9)).mean(dim=2))


@torch.no_grad()
def test_main_logits_are_the_dense_prediction_at_full_size(segmenter: Any) -> None:
    seen: list[Tensor] = []
    segmenter.decoder.predict.register_forward_hook(lambda _, __, output: seen.append(output))
    prediction = segmenter(_double(1, 3, 33, 65))
    assert torch.equal(prediction.logits[0], seen[0])
    losses = segmenter.segmentation_losses(prediction, torch.ones(1, 33, 65, dtype=torch.long))
    weights = {name: weight for name, (weight, _) in losses.items()}
    assert weights == {"main": 1.0, "aux_8": 0.4, "aux_16": 0.4}
