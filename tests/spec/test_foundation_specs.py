"""Job specs of foundation encoders: what is published, what is expected, and the GPUs that each
fits by the prediction of `check`."""

import re
from pathlib import Path

import pytest

from adapt.check.memory import predicted_bytes
from adapt.spec.loading import load_spec
from adapt.trainer.networks import check_networks

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "job_specs" / "foundation_encoders").glob("*.yaml"))
PAGE = (ROOT / "docs" / "vision_transformers.md").read_text()
FITS = re.compile(r"^# Fits: (1|4) x (24|80) GB: ([\d.]+) GB a GPU", re.MULTILINE)
EACH = pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)


@EACH
def test_the_head_says_what_is_published_and_expected_and_what_it_fits(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^# Published: .+\d.*$|^# Published: nothing", text, re.MULTILINE)
    assert re.search(r"^# Expected: .*\d", text, re.MULTILINE)
    (found,) = FITS.findall(text)
    assert float(found[2]) <= float(found[1])
    assert f"({'../job_specs/foundation_encoders'}/{path.name})" in PAGE


@pytest.mark.nightly
@EACH
def test_it_fits_the_gpus_that_its_head_names(path: Path) -> None:
    job = load_spec(path)
    check_networks(job)
    ((ranks, _, needed),) = FITS.findall(path.read_text())
    assert predicted_bytes(job, int(ranks)).needed / 1e9 == pytest.approx(float(needed), rel=0.02)


def test_a_small_one_builds() -> None:
    """The others are built nightly: a ViT-L takes seconds even without memory."""
    check_networks(load_spec(ROOT / "job_specs/foundation_encoders/gta5_vfm_uda_dinov2_base.yaml"))
