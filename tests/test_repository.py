"""The files that hosts of repositories read: workflow, forms, citation, policies."""

import re
from typing import Any

import pytest
import yaml

import adapt
from tests.commands import ROOT

WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml"))


def test_each_event_has_its_tier() -> None:
    assert set(WORKFLOW[True]) == {"pull_request", "push", "schedule", "workflow_dispatch"}
    tiers = {}
    for name, job in WORKFLOW["jobs"].items():
        (tiers[name],) = re.findall(r"\.ci/run (\w+)", str(job["steps"]))
    assert tiers == {"fast": "fast", "test": "test", "nightly": "nightly"}
    assert "pull_request" in WORKFLOW["jobs"]["fast"]["if"]
    assert "push" in WORKFLOW["jobs"]["test"]["if"]
    assert "schedule" in WORKFLOW["jobs"]["nightly"]["if"]


def test_the_workflow_may_only_read_and_has_time_limits() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in WORKFLOW["jobs"].values())


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_forms_are_complete(form: Any) -> None:
    values = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(values)
    ids = [field["id"] for field in values["body"]]
    assert len(ids) == len(set(ids)) and all(
        field["attributes"]["label"] for field in values["body"]
    )


def test_updates_are_proposed_for_what_is_here() -> None:
    values = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    found = {one["package-ecosystem"] for one in values["updates"]}
    assert found == {"pip", "github-actions", "docker"} and values["version"] == 2


def test_the_citation_has_the_version_and_the_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == adapt.__version__ and citation["license"] == "Apache-2.0"
