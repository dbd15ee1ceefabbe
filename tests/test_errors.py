"""Failures that a user can fix: their text, and their way through other processes."""

import copy
import pickle

import pytest

from adapt.errors import DataError, JobError
from adapt.platforms.docker.errors import EngineRefused, refusal_of
from storage.errors import FixableError, MissingObject, StoreError, StoreUnavailable


def test_the_text_ends_with_the_fix() -> None:
    assert str(JobError("key: expected 1, got 2")) == "key: expected 1, got 2"
    error = JobError("key: expected 1, got 2", fix="write 1")
    assert str(error) == "key: expected 1, got 2. Fix: write 1."
    error = JobError("key: expected a name, got 'x'; did you mean 'y'?", fix="write y")
    assert str(error) == "key: expected a name, got 'x'; did you mean 'y'? Fix: write y."


@pytest.mark.parametrize("kind", [DataError, JobError, MissingObject, StoreError, StoreUnavailable])
def test_a_failure_is_the_same_in_another_process(kind: type[FixableError]) -> None:
    error = kind("key: expected 1, got 2", fix="write 1")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert (other.problem, other.fix) == (error.problem, error.fix)


def test_a_docker_engines_refusal_is_the_same_in_another_process() -> None:
    error = EngineRefused(refusal_of("no such image"))
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), other.refusal, str(other)) == (EngineRefused, error.refusal, str(error))
