"""The report's page: its content, and that no text of a user becomes HTML."""

import base64
import hashlib
import html
import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go
import pytest

from adapt.data.label_maps import LabelSpace
from adapt.report import charts
from adapt.report.history import TRAIN
from adapt.report.page import compare_page, run_page
from adapt.report.run_record import RunRecord
from tests.report.runs import HOSTILE, made_run, session

TWO = LabelSpace.model_validate(
    [
        {"name": HOSTILE, "colour": (1, 2, 3), "ids": {"gta5": (0,), "cityscapes": (0,)}},
        {"name": "road", "colour": (4, 5, 6), "ids": {"gta5": (1,), "cityscapes": (1,)}},
    ]
)


class Page(HTMLParser):
    """Tags with their attributes, and texts outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        return json.loads(self.scripts[0])

    @property
    def labelled(self) -> dict[str, dict[str, Any]]:
        """The figures by the labels of their charts."""
        charts = [tag for _, tag in self.tags if tag.get("class") == "chart"]
        return {
            str(tag["aria-label"]): self.figures[int(str(tag["data-figure"]))] for tag in charts
        }


@pytest.fixture(scope="module")
def run() -> RunRecord:
    return made_run("calm")


@pytest.fixture(scope="module")
def page(run: RunRecord) -> Page:
    return Page(run_page(run))


def test_every_section_is_there(page: Page) -> None:
    for text in ("Scores", "Losses", "Validation images", "Images of the lowest mIoU", "Job spec"):
        assert text in page.text
    assert "step 4000 of 4000, finished" in page.text
    assert "best by miou, student, step 4000" in page.text
    assert "3.00" in page.text and "2 x NVIDIA H200, 139 GiB" in page.text, "GPU-hours"
    assert "24 966" in page.text and "abababababababab" in page.text, "data"
    assert "architecture: deeplab_v2" in page.text, "the spec"
    assert "2.14.1" in page.text and "Some processor" in page.text, "environment"


def test_curves_have_every_loss_and_score(page: Page, run: RunRecord) -> None:
    assert {"main over steps", "adv over steps", "segmenter over steps"} <= page.labelled.keys()
    scores = page.labelled["Scores over steps, in percent"]
    assert [one["name"] for one in scores["data"]] == ["miou", "pixel_accuracy"]
    assert scores["data"][0]["x"] == [1000, 2000, 3000, 4000]
    assert run.shown is not None
    best = run.shown["record"]["miou"]
    assert scores["data"][0]["y"][-1] == pytest.approx(100 * best, abs=1e-3)


def bars(page: Page) -> list[dict[str, Any]]:
    return next(f["data"] for f in page.figures if f["data"][0]["type"] == "bar")


def test_classes_are_sorted_and_compared_with_the_first_evaluation(page: Page) -> None:
    now, before = bars(page)
    assert now["x"] == sorted(now["x"], reverse=True) and len(now["x"]) == 19
    assert now["y"] == before["y"]
    assert before["name"] == charts.shown_name("its first evaluation, step 1000")
    assert sum(now["x"]) > sum(before["x"])


def test_a_baseline_takes_the_place_of_the_first_evaluation(run: RunRecord) -> None:
    other = made_run("other", scale=0.5, seed=1)
    found = Page(run_page(run, other))
    assert bars(found)[1]["name"] == "other, step 4000"
    by_class = dict(zip(bars(found)[1]["y"], bars(found)[1]["x"], strict=True))
    assert by_class["road"] == pytest.approx(100 * (other.shown_iou()["road"] or 0), abs=1e-3)
    assert "Compared with other, step 4000." in found.text


def test_rows_of_the_confusion_matrix_sum_to_all(page: Page) -> None:
    (matrix,) = (f["data"][0]["z"] for f in page.figures if f["data"][0]["type"] == "heatmap")
    assert all(sum(row) == pytest.approx(100, abs=0.05) for row in matrix)
    assert charts.normalised([[0, 0], [1, 3]]) == [[None, None], [0.25, 0.75]]


def test_pictures_have_alternative_texts(page: Page) -> None:
    pictures = [tag for name, tag in page.tags if name == "img"]
    assert len(pictures) == 4 * (3 + 1)
    assert all(str(tag["src"]).startswith("data:image/") and tag["alt"] for tag in pictures)
    assert "Predicted classes of street 0" in str(pictures[2]["alt"])


def test_headings_descend_by_one(page: Page) -> None:
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    labelled = [tag for _, tag in page.tags if tag.get("class") == "chart"]
    assert all(tag["role"] == "img" and tag["aria-label"] for tag in labelled)


def test_the_utilisation_is_the_median_while_training(run: RunRecord) -> None:
    assert "median share of the peak" not in Page(run_page(run)).text
    used = made_run("used")
    for step, mfu in ((4010, 0.1), (4020, 0.312), (4030, 0.4)):
        values = {"speed/mfu": mfu, "spent/gpu_hours": step / 4000, "spent/cost": step / 400}
        used.history.log(TRAIN, step, values)
    text = Page(run_page(used)).text
    assert "31.20 %" in text.split("Scores")[0] and "median share of the peak" in text
    for title in ("Speed and utilisation (mfu)", "GPU-hours and cost", "gpu_hours"):
        assert title in text


def test_a_price_is_that_of_all_nodes(run: RunRecord) -> None:
    assert "price" not in Page(run_page(run)).text.split("Scores")[0]
    assert "6.75 USD" in Page(run_page(run, price_per_hour=4.5)).text
    assert "6.75 EUR" in Page(run_page(run, price_per_hour=4.5, currency="EUR")).text
    named = made_run("paid", report={"price_per_hour": 2.0, "currency": "CNY"})
    named.history.sessions[0] = {**session(nodes=3), "step": 0, "seconds": 3600.0}
    assert "6.00 CNY" in Page(run_page(named)).text


def test_a_run_without_an_evaluation_has_a_page() -> None:
    found = Page(run_page(made_run(num_evaluations=0)))
    assert "The run has no evaluation yet." in found.text
    assert "The run keeps no pictures." in found.text


def test_a_single_evaluation_is_compared_with_nothing() -> None:
    found = Page(run_page(made_run(num_evaluations=1)))
    assert len(bars(found)) == 1
    assert "There is no other evaluation to compare with." in found.text


def test_no_text_of_a_user_becomes_html() -> None:
    run = made_run(HOSTILE, TWO)
    for curve in run.history.curves.values():
        for values in curve.rows.values():
            values[f"train/loss.{HOSTILE}"] = 1.0
    assert run.shown is not None
    run.shown["pictures"][0]["key"] = f"</script>{HOSTILE}"
    for text in (run_page(run, run), compare_page([run, run])):
        found = Page(text)
        assert HOSTILE in found.text, "it is shown as it was written"
        assert not [tag for _, tag in found.tags if {"onerror", "onload"} & tag.keys()]
        assert len(found.scripts) == 3
        names = json.dumps(found.figures)
        assert "<img" not in names and html.escape(HOSTILE, quote=False)[:20] in names


def test_the_page_runs_and_loads_nothing_else(page: Page) -> None:
    (policy,) = (tag["content"] for _, tag in page.tags if "http-equiv" in tag)
    assert policy is not None and policy.startswith("default-src 'none'")
    for script in page.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert sum(len(script) > 1e6 for script in page.scripts) == 1, "Plotly stands there once"
    for name, tag in page.tags:
        assert str(tag.get("src", "data:")).startswith("data:"), name
        assert re.match(r"#|data:,$", str(tag.get("href", "#"))), name


def test_plotly_knows_every_property_of_the_figures(page: Page, run: RunRecord) -> None:
    compared = Page(compare_page([run, made_run("other", seed=3)]))
    for figure in (*page.figures, *compared.figures):
        go.Figure(figure)


def test_losses_that_span_decades_have_a_log_axis() -> None:
    assert charts.curves({"a": {1: 100.0, 2: 1.0}}, "")["layout"]["yaxis"]["type"] == "log"
    for points in ({1: 100.0, 2: 0.0}, {1: 2.0, 2: 1.0}, {1: None, 2: None}):
        assert "type" not in charts.curves({"a": points}, "")["layout"]["yaxis"]


def test_a_comparison_shows_runs_side_by_side(run: RunRecord) -> None:
    other = made_run("other", scale=0.5, seed=1, train={"steps": 8000})
    found = Page(compare_page([run, other]))
    assert len(bars(found)) == 2 and "step 4000 of 8000, not finished" in found.text
    assert run.shown is not None and other.shown is not None
    gap = 100 * (other.shown["record"]["miou"] - run.shown["record"]["miou"])
    assert f"{gap:+.2f}" in found.text
    assert "train.steps" in found.text and "checkpoint.uri" not in found.text
    alts = [str(tag["alt"]) for name, tag in found.tags if name == "img"]
    assert "Classes of street 0 predicted by other" in alts and len(alts) == 3 * 4


def test_runs_of_one_name_are_numbered(run: RunRecord) -> None:
    text = Page(compare_page([run, run])).text
    assert "calm (1)" in text and "calm (2)" in text


def test_runs_of_other_classes_share_no_pictures(run: RunRecord) -> None:
    text = Page(compare_page([run, made_run("two", TWO)])).text
    assert "The runs show no common images of the same classes." in text
