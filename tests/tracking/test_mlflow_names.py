"""Names for MLflow: legal by its own rules, unique, the same in every start."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.utils.uri import validate_path_is_safe
from mlflow.utils.validation import _validate_param_name

from adapt.tracking.names import clean_text, legal_name, legal_path

AWKWARD = [
    *("", " ", ".", "..", "...", "..a", "./a", "a/./b", "a/../b", "../a", "/a", "a/", "a//b"),
    *("a\n", "a\nb", " a", "a ", "a\0b", "\ud800", "a\\b", "a#b", "%2e%2e/x", "~/x", "-", "_"),
    *("traffic (light)", "traffic [light]", "stores.s3://bucket.region", "c:/x.txt", "file:x"),
    *("x" * 250, "x" * 251, "x" * 252, "日" * 300, "/" * 300, "k/" * 200 + "a(b.txt", "日" * 99),
    *("straße", "e\u0301", "\u00e9", "(.png", "a/(.png", "(/.png", "a.verylongsuffix("),
]
NAMES = st.text("ab./ :(-_%\\#é\n\ud800", max_size=12) | st.sampled_from(AWKWARD)


def assert_legal(names: list[str]) -> None:
    metrics = [legal_name(name) for name in names]
    paths = [legal_path(name) for name in names]
    assert len(set(metrics)) == len(set(paths)) == len(names)
    for metric, path in zip(metrics, paths, strict=True):
        _validate_param_name(metric)
        assert len(metric) <= 250 and metric == metric.strip()
        verify_artifact_path(path)
        assert validate_path_is_safe(path) == path
        assert max(len(part.encode()) for part in path.split("/")) <= 250
        assert (legal_name(metric), legal_path(path)) == (metric, path), "legal names stay"


def test_awkward_names_become_legal_and_stay_different() -> None:
    assert_legal(AWKWARD)


@settings(max_examples=200, deadline=None)
@given(st.lists(NAMES, max_size=20, unique=True))
def test_any_names_become_legal_and_stay_different(names: list[str]) -> None:
    assert_legal(names)


@pytest.mark.parametrize(
    "name",
    ["loss/main", "validation/iou/band 0", "train.lr", "a:b", "straße", ".hidden", "x" * 250],
)
def test_legal_names_stay(name: str) -> None:
    assert legal_name(name) == name


def test_a_name_is_the_same_in_every_start_and_version() -> None:
    assert legal_name("a/../b") == "a/b-900ea8b7"
    assert legal_name("traffic (light)") == "traffic _light_-5d111aa1"
    assert legal_path("pictures/a (1).png") == "pictures/a _1_-095402e3.png"


def test_text_is_what_a_database_holds() -> None:
    assert clean_text("a\ud800b\0ü\n") == "a?b?ü\n"
