"""Every method over a small vision transformer: it learns, and a resumed job is the same."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from adapt.engine.adamw import AdamW
from adapt.engine.engine import Engine
from adapt.engine.train_config import TrainConfig
from adapt.methods import METHODS
from tests.built_methods import built_method, random_batch, target_batch
from tests.networks import SURE
from tests.tiers import one_in

torch.set_num_threads(1)


def engine(name: str) -> Engine:
    vit = {"encoder": "test_vit", "drop_path": 0.2, "norm": "train"}
    method = built_method(name, model=vit, **SURE.get(name, {}))
    optim = AdamW.Config(name="adamw")
    return Engine(method, TrainConfig(steps=4), optim, torch.device("cpu"))


def step(one: Engine, seed: int) -> Any:
    source = random_batch(seed, True, (32, 32), size=2)
    return one.step(source, target_batch(one.method, seed + 1, size=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(3, METHODS))
def test_every_method_moves_a_vision_transformer_and_resumes_exactly(name: str) -> None:
    whole, resumed = engine(name), engine(name)
    before = {key: value.clone() for key, value in whole.method.segmenter.named_parameters()}
    step(whole, 1)
    assert not whole.bad_steps
    for key, value in whole.method.segmenter.named_parameters():
        assert not torch.equal(value, before[key]), key
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    step(whole, 3)
    step(resumed, 3)
    for key, value in whole.method.state_dict().items():
        assert torch.equal(resumed.method.state_dict()[key], value), key
