"""Advice on a profile, each rule from a profile made so, and the page."""

from typing import Any

import pytest

from adapt.profiling.advice import MOST, RULES, advise
from adapt.profiling.page import profile_page
from adapt.profiling.profile import Machine, Profile
from adapt.profiling.trace import Operator
from tests.report.test_report_page import Page

MACHINE = Machine("2 threads of a CPU", 1, "bf16", {"source": 1, "target": 1}, 2, "none", 2.0, None)
CALM = Profile(
    *("tiny <b>", MACHINE, 10, 5),
    {"forward": 4.0, "backward": 5.0, "optimizer": 1.0},
    None,
    [Operator("aten::convolution<float>", 50, 6.0)],
    [],
    *(1.9, 0.5),
    {"start-up": 5.0, "steps": 40.0, "data": 5.0},
)


def test_a_calm_profile_has_one_sentence() -> None:
    assert advise(CALM) == ["No setting stands out: 90% of the time is the networks' own."]
    (text,) = advise(CALM._replace(mfu=0.2))
    assert "They reach 20% of the device's peak" in text


SLOW: dict[str, tuple[dict[str, Any], str]] = {
    "data": ({"spent_s": {"data": 4.0, "forward": 6.0}}, "raise stream.threads (2 a rank now)"),
    "communication": ({"spent_s": {"communication": 3.0, "forward": 7.0}}, "other ranks"),
    "optimizer": ({"spent_s": {"optimizer": 3.0, "forward": 7.0}}, "for fewer updates"),
    "logging": ({"spent_s": {"logging": 1.0, "forward": 7.0}}, "raise train.log_every_steps"),
    "idle": ({"idle": 0.5}, "The GPU is idle for 50% of the time"),
    "precision": ({"machine": MACHINE._replace(precision="fp32")}, "2.0 times as fast in bf16"),
    "checkpointing": (
        {"machine": MACHINE._replace(activation_checkpointing="blocks", free_memory=0.6)},
        "60% of the GPU's memory is free: set train.activation_checkpointing: none",
    ),
    "evaluation": ({"start_s": {"evaluation": 5.0, "steps": 5.0}}, "raise evaluate.every_steps"),
    "saving": ({"start_s": {"saving": 1.0, "steps": 5.0}}, "raise checkpoint.every_minutes"),
}


@pytest.mark.parametrize("name", SLOW)
def test_each_limit_has_its_advice(name: str) -> None:
    changes, expected = SLOW[name]
    (text,) = advise(CALM._replace(**changes))
    assert expected in text and text.endswith(".")


def test_every_rule_is_tried() -> None:
    assert len(SLOW) == len(RULES) and MOST.keys() <= SLOW.keys()


def test_time_that_is_explained_is_no_idle_gpu() -> None:
    waiting = {"data": 4.0, "forward": 6.0}
    texts = advise(CALM._replace(idle=0.45, spent_s=waiting))
    assert len(texts) == 1 and "waits for data" in texts[0]


def test_memory_and_precision_that_are_not_known_give_no_advice() -> None:
    machine = MACHINE._replace(
        precision="fp32", faster_bf16=None, activation_checkpointing="blocks"
    )
    assert "No setting stands out" in advise(CALM._replace(machine=machine))[0]


def test_the_page_has_all_of_it() -> None:
    html = profile_page(CALM)
    page = Page(html)
    assert "tiny <b>: profile of steps 11 to 15" in page.text
    assert "<b>:" not in html and "aten::convolution&lt;float&gt;" in html
    for text in ("50.0 %", "1.2 s", "1.9 s", "start-up", "1 source and 1 target images a step"):
        assert text in html, text
    assert "GPU idle" not in html and 'id="kernels"' not in html
    gpu = profile_page(CALM._replace(idle=0.25, kernels=[Operator("sm90_fprop", 5, 2.5)], mfu=None))
    assert "GPU idle" in gpu and "sm90_fprop" in gpu and "25 %" in gpu
