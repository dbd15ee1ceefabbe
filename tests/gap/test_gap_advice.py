"""The advice on a gap, and its page: each kind from a gap that is made so."""

import html
import os
from pathlib import Path
from typing import Any

import pytest

from adapt.errors import DataError, JobError
from adapt.gap.advice import (
    ADAPT,
    DONE,
    FIX,
    LABEL,
    SOURCE_ONLY,
    Advice,
    advise,
    is_transformer,
    labels_wanted,
)
from adapt.gap.diagnose import Gap, diagnose, weights_text
from adapt.gap.measures import NetworkGap, PredictionGap
from adapt.gap.page import closed_rows, gap_page
from adapt.gap.summary import summary
from adapt.gap.thresholds import THRESHOLDS
from adapt.places import find_place
from adapt.spec.job_spec import JobSpec
from adapt.spec.loading import parse_spec
from tests.conftest import tiny_values
from tests.report.test_report_page import Page

ROOT = Path(__file__).resolve().parents[2]
SURE = PredictionGap((0.1, 0.12), (0.9, 0.8), 0.01, 0.02, (0.25,) * 4, (0.25,) * 4, (0.25,) * 4)


def job_of(tiny_uri: str, **changes: Any) -> JobSpec:
    return parse_spec(tiny_values(tiny_uri, "runs") | changes, "tiny")


@pytest.fixture(scope="module")
def gap(tiny_uri: str) -> Gap:
    """That of two equal domains."""
    return diagnose(job_of(tiny_uri), find_place(os.environ), count=22)


def with_distance(network: NetworkGap, value: float) -> NetworkGap:
    layers = (one._replace(a_distance=value, kernel=value) for one in network.layers)
    return network._replace(layers=tuple(layers))


def far_apart(gap: Gap, predictions: PredictionGap | None = None) -> Gap:
    far = with_distance(gap.before, 2.0)._replace(predictions=predictions)
    images = gap.images._replace(low_frequencies=0.1, detail=0.0, colour=1.0)
    return gap._replace(before=far, images=images)


def test_equal_domains_are_not_adapted(gap: Gap) -> None:
    advice = advise(gap, "tiny.yaml")
    assert gap.before.layers[-1].a_distance < 0.5 and gap.images.colour == 0
    assert advice.kind == SOURCE_ONLY and advice.fixes == ()
    assert "random weights" in " ".join(advice.reasons)
    assert advice.steps == ("segadapt run tiny.yaml --set 'method={name: source_only}'",)


def test_domains_far_apart_are_adapted_by_a_method_with_a_reason(gap: Gap) -> None:
    far = far_apart(gap)
    assert advise(far, "a.yaml").kind == ADAPT
    assert "name: daformer" in advise(far, "a.yaml").steps[0]
    assert "name: vfm_uda" in advise(far._replace(encoder="vit_base"), "a.yaml").steps[0]
    unsure = SURE._replace(confident=(0.9, 0.3))
    assert "name: advent" in advise(far_apart(gap, unsure), "a.yaml").steps[0]
    other_shares = SURE._replace(classes=0.3)
    assert "rare_classes" in advise(far_apart(gap, other_shares), "a.yaml").steps[1]
    style = far._replace(images=far.images._replace(low_frequencies=0.7, beta=0.05))
    assert "{name: fda, beta: 0.05}" in advise(style, "a.yaml").steps[0]


def test_what_is_to_be_fixed_comes_first(gap: Gap) -> None:
    far = far_apart(gap)
    missing = advise(far._replace(missing=("band 3",)), "a.yaml")
    assert missing.kind == FIX and missing.then == ADAPT and "band 3" in missing.sentence
    colour = advise(far._replace(images=far.images._replace(colour=30.0)), "a.yaml")
    assert colour.kind == FIX and "30 Delta E" in colour.fixes[0].text
    detail = advise(far._replace(images=far.images._replace(detail=0.4)), "a.yaml")
    assert detail.kind == FIX and "viewpoint" in detail.sentence
    moved = advise(far_apart(gap, SURE._replace(places=0.5)), "a.yaml")
    assert moved.kind == FIX and "classes stand elsewhere" in moved.fixes[0].text


def test_a_network_that_knows_where_classes_are_goes_before_rows_of_detail(gap: Gap) -> None:
    far = far_apart(gap, SURE)
    assert advise(far._replace(images=far.images._replace(detail=0.4)), "a.yaml").fixes == ()


def test_after_training_it_is_used_or_images_are_labelled(gap: Gap) -> None:
    trained = with_distance(gap.before, 0.2)._replace(predictions=SURE)
    done = far_apart(gap)._replace(after=trained, model="runs/a")
    assert advise(done, "a.yaml").kind == DONE
    open_still = done._replace(after=with_distance(trained, 1.9))
    advice = advise(open_still, "a.yaml")
    unsure = trained._replace(predictions=SURE._replace(entropy=(0.1, 0.3)))
    assert advise(done._replace(after=unsure), "a.yaml").kind == LABEL
    assert advice.kind == LABEL and "--model runs/a --count 20" in advice.steps[0]


@pytest.mark.parametrize(
    ("samples", "expected"), [(5, 5), (22, 20), (1600, 100), (2975, 186), (10**6, 200)]
)
def test_a_sixteenth_is_labelled_within_limits(samples: int, expected: int) -> None:
    assert labels_wanted(samples) == expected


def test_encoders_that_are_transformers() -> None:
    assert is_transformer("vit_base_patch14_dinov2") and is_transformer("mit_b5")
    assert not is_transformer("resnet101") and not is_transformer("convnext_tiny")


def test_what_training_has_closed(gap: Gap) -> None:
    assert closed_rows(gap) == []
    after = with_distance(gap.before, 0.5)._replace(predictions=SURE)
    closed = far_apart(gap)._replace(after=after)
    name, *cells = closed_rows(closed)[0]
    assert name.startswith("A-distance, stage 1") and cells == ["2", "0.5", "75 %"]
    assert closed_rows(closed)[-1][:3] == ("places of the classes", "–", "0.02")


def page_of(gap: Gap, advice: Advice) -> Page:
    return Page(gap_page(gap, advice, "tiny <b>"))


def test_the_page_has_all_sections_and_its_advice_at_its_head(gap: Gap) -> None:
    page = page_of(gap, advise(gap, "tiny.yaml"))
    for text in ("Advice", "Colour and texture", "Frequencies", "Features by layer", "Thresholds"):
        assert text in page.text
    assert "Train on the source alone" in page.text and "tiny <b>: the gap" in page.text
    assert "What training has closed" not in page.text
    assert "No trained network was given" in page.text
    assert all(one.reason in page.text for one in THRESHOLDS.values())
    assert set(page.labelled) == {
        "Pixels by lightness",
        "Amplitude by spatial frequency",
        "Proxy A-distance by layer of the encoder",
    }
    images = [one for tag, one in page.tags if tag == "img"]
    assert len(images) == 24 and all(str(one["src"]).startswith("data:") for one in images)
    near = gap.near[0]
    assert near.distance == pytest.approx(0) and near.key == near.other_key


def test_the_page_after_training(gap: Gap) -> None:
    after = with_distance(gap.before, 0.5)._replace(predictions=SURE)
    counts = gap.facts[0].lightness, gap.facts[1].lightness
    trained = gap._replace(after=after, model="runs/a", entropies={"after": counts})
    page = page_of(trained, advise(trained, "tiny.yaml"))
    assert "What training has closed" in page.text and "runs/a" in page.text
    assert {"Class shares", "Pixels by entropy, after"} <= set(page.labelled)


def test_the_summary_is_plain(gap: Gap) -> None:
    found = summary(gap, advise(gap, "tiny.yaml"))
    assert found["advice"]["kind"] == "source_only" and found["after"] is None
    assert found["source"] == {"name": "tiny", "images": 22, "samples": 22, "image_hw": [48, 64]}
    assert sum(found["label_shares"].values()) == pytest.approx(1)


def test_jobs_that_cannot_be_compared(tiny_uri: str) -> None:
    place = find_place(os.environ)
    with pytest.raises(JobError, match="target: expected a domain to compare"):
        diagnose(job_of(tiny_uri, target=None, method={"name": "source_only"}), place)
    few = {"dataset": "tiny", "uri": tiny_uri, "split": "val", "size_hw": [48, 64], "batch_size": 2}
    with pytest.raises(DataError, match="target: expected at least 10 images to compare, got 5"):
        diagnose(job_of(tiny_uri, target=few), place)


def test_weights_are_named(tiny_uri: str) -> None:
    model = job_of(tiny_uri).model
    texts = [
        weights_text(model.model_copy(update=one))
        for one in (
            {"start_uri": "a/start.pth"},
            {"weights_uri": "s3://key:secret@host/a.pth"},
            {"weights": "imagenet"},
            {},
        )
    ]
    assert texts[0] == "the whole network of a/start.pth" and "secret" not in texts[1]
    assert texts[2:] == ["pretrained weights of timm's hub", "random weights"]


def test_the_page_of_docs_has_the_thresholds() -> None:
    text = (ROOT / "docs" / "gap.md").read_text()
    for one in THRESHOLDS.values():
        guess = "yes" if one.guess else "no"
        assert (
            f"| {one.value:.4g} | {one.meaning} | {html.unescape(one.reason)} | {guess} |" in text
        )
