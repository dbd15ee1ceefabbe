"""`checkpoint.trained_only`: checkpoints without their base, and a resume that completes them.

The frozen weights of every encoder of a job, the student's, a teacher's, a fixed copy, are the
base's, which a resumed job loads as it did at its start.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapt.engine.engine import Engine
from adapt.models.base_weights import Base, take_out, with_base, without_base
from adapt.models.segmenter import Segmenter
from adapt.trainer.networks import check_base

BASE_KEY = "base"


def kept_weights(
    network: Segmenter, base: Base | None, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a network's state that its file holds: all, or those beside its base."""
    return state if base is None else without_base(state, network)


def restart(network: Segmenter, state: Mapping[str, Any]) -> None:
    """Make the frozen weights of a network, its base's, what they were at a job's start, of whose
    engine the state is; before other networks are made of it.

    Raises `JobError` where its base is another one.
    """
    if network.base is not None:
        check_base(Base(**state[BASE_KEY]), network.base, "checkpoint.uri")
        take_out(network, state["method"], "segmenter.")


def without_base_of(engine: Engine) -> dict[str, Any]:
    """The engine's state; without the base's tensors, which it names, where the job leaves them
    out."""
    state, student = engine.state_dict(), engine.method.segmenter
    if student.base is None:
        return state
    kept = {key: without_base(state[key], network) for key, network in _networks(engine).items()}
    return {**state, **kept, BASE_KEY: student.base.model_dump()}


def with_base_of(engine: Engine, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state with what it leaves out: what the engine's networks were built with."""
    student = engine.method.segmenter
    if student.base is None:
        return dict(state)
    found = {key: with_base(state[key], network) for key, network in _networks(engine).items()}
    return {**state, **found}


def _networks(engine: Engine) -> dict[str, nn.Module]:
    """The modules whose states the engine's has, by their keys in it."""
    average = {} if engine.average is None else {"ema": engine.average}
    return {"method": engine.method, **average}
