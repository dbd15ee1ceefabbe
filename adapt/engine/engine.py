"""One training step: back-propagate a method's terms as they come, then move every network.

Each term is back-propagated before the next is computed, so one graph is freed before another is
built (the papers' memory behaviour), and all optimizers step at the end, so a discriminator learns
from logits of the network as it was when the step began. The engine alone knows precision,
accumulation, clipping and ranks. Ranks average gradients once a step over c10d collectives rather
than in DistributedDataParallel's hooks, which expect one backward a forward and one network; a step
here has several of both. Between two steps that are logged nothing waits for the device: whether
losses and gradients are finite stays there, and refuses a step by a mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adapt.batch import Batch
from adapt.engine.activation_checkpointing import CHECKPOINTING
from adapt.engine.bad_steps import BadStep, PendingStep, refuse_step, refused
from adapt.engine.frozen_weights import FROZEN
from adapt.engine.masked import Kept, step_where
from adapt.engine.optim import build_optimizers, laid_out_as, set_lr, set_weight_decay
from adapt.engine.parallel import PARALLEL
from adapt.engine.segmenter_optimizer import OptimConfig
from adapt.engine.sync_batch_norm import SyncBatchNorm
from adapt.engine.train_config import MEANS, PRECISIONS, TrainConfig
from adapt.errors import JobError
from adapt.methods.draws import Draws
from adapt.methods.method import Method
from adapt.methods.moving_average import MovingAverage
from adapt.methods.pinned import with_pinned
from adapt.models.segmenter import Segmenter
from adapt.ranks import (
    gather_keys,
    local_part,
    mean_over_ranks,
    num_ranks,
    on_all_ranks,
    rank,
    share_from_leader,
)

MOST_PENDING = 100
"""Steps after which `settle` is called, however seldom losses are logged."""


class Engine:
    """Trains the networks of one method.

    `step_count` steps are done, some of them refused (`bad_steps`). Random numbers of a step, such
    as dropout's, follow from `seed`, the step and the rank alone. `average` is the spec's
    `train.ema`.
    """

    def __init__(
        self,
        method: Method,
        train: TrainConfig,
        optim: OptimConfig,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.method = method.to(device)
        self.average = None if train.ema is None else MovingAverage(train.ema, method.segmenter)
        self.train_config, self.optim_config, self.device = train, optim, device
        self.parallel = PARALLEL[train.parallel]()
        self.parallel.share_frozen(method, self.average)
        self.frozen = FROZEN[train.frozen_weights](with_pinned(self.modules()))
        for network in method.learning():
            CHECKPOINTING[train.activation_checkpointing](network.encoder, self._batch_norm)
        self.parallel.shard(self.modules(), device)
        self.optimizers = build_optimizers(optim, method)
        self.step_count = 0
        self._bad_steps: list[BadStep] = []
        self._pending: list[PendingStep] = []
        self._seed = seed

    def step(self, source: Batch, target: Batch | None) -> dict[str, Tensor]:
        """One optimizer step on a batch of each domain -> unweighted losses by name, scalars on the
        device.

        Every rank passes its own part; gradients are averaged over ranks. A step whose losses or
        gradients are not finite leaves everything as it was, but counts. Every `log_every_steps`
        it waits for the device, and raises as `settle`; `RankLost` where a rank is gone.
        """
        self.method.train()
        torch.manual_seed(self._seed_of(self.step_count, rank()))
        buffers = Kept(self.method.buffers())
        now = (self.optim_config, self.step_count, self.train_config.steps)
        set_lr(self.optimizers, *now)
        set_weight_decay(self.optimizers, *now)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        parts = self.train_config.accumulate
        sources = source.parts(parts)
        targets = [None] * parts if target is None else target.parts(parts)
        draws = Draws(self._seed_of(self.step_count))
        self.method.start_step(draws, [one for one in targets if one is not None])
        with MEANS[self.train_config.accumulate_mean](sources, targets):
            logged = self._back_propagate(sources, targets)
        self.parallel.average(self._gradients())
        taken = self._all_finite(logged)
        self._move(taken, buffers)
        keys = source.keys + (() if target is None else target.keys)
        self._pending.append(PendingStep(self.step_count - 1, keys, taken, logged))
        every = min(self.train_config.log_every_steps, MOST_PENDING)
        if self.step_count % every == 0 or len(self._pending) >= MOST_PENDING:
            self.settle()
        return logged

    @property
    def bad_steps(self) -> list[BadStep]:
        """The refused steps: (step, keys of its samples of all ranks). Waits and raises as
        `settle`."""
        self.settle()
        return self._bad_steps

    def settle(self) -> None:
        """Learn which of the last steps were refused, and name them in the log; all ranks call it.

        Waits for the device, once. Raises `JobError` after more than `max_bad_steps` of them.
        """
        pending, self._pending = self._pending, []
        for step in refused(pending):
            self._bad_steps.append((step.step, gather_keys(step.keys)))
            refuse_step(self._bad_steps, step.logged, self.train_config.max_bad_steps)

    def mean_over_ranks(self, logged: dict[str, Tensor]) -> dict[str, float]:
        """Losses of one step as numbers, averaged over ranks.

        Waits for the device.
        """
        values = torch.stack([value.to(self.device, torch.float64) for value in logged.values()])
        values = mean_over_ranks(values)
        return dict(zip(logged, values.tolist(), strict=True))

    def networks(self) -> dict[str, Segmenter]:
        """`student`, the network that learns; where there are such, `ema`, its moving average, and
        `teacher`, another network that teaches it."""
        own = self.method.teacher_network() if self.average is None else self.average.network
        others = {"ema": own, "teacher": self.method.teaching_network()}
        found = {name: one for name, one in others.items() if one is not None}
        return {"student": self.method.segmenter, **found}

    @contextmanager
    def used(self, name: str) -> Iterator[Segmenter]:
        """One of `networks`, within the context to be used without a step's precision."""
        network = self.networks()[name]
        with self.parallel.whole(network), self.frozen.widened(network):
            yield network

    def modules(self) -> nn.ModuleList:
        """All networks: the method's, and the `average` where there is one."""
        return nn.ModuleList([one for one in (self.method, self.average) if one is not None])

    def share_buffers(self) -> None:
        """Give every rank the leader's running statistics, before they are evaluated or saved."""
        share_from_leader(self.modules().buffers())

    def share_all(self) -> None:
        """Give every rank the leader's networks, before the first step."""
        parameters = self.modules().parameters()
        share_from_leader(one.data for one in parameters if local_part(one) is one)
        self.share_buffers()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for the streams: networks, optimizers, step."""
        average = {} if self.average is None else {"ema": self.average.state_dict()}
        return {
            "step": self.step_count,
            "method": self.method.state_dict(),
            **average,
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "bad_steps": [[step, list(keys)] for step, keys in self.bad_steps],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state_dict()`.

        Raises `JobError` where it belongs to other networks.
        """
        try:
            self._load(self.method, state["method"])
            if self.average is not None:
                self._load(self.average, state["ema"])
            for name, optimizer in self.optimizers.items():
                self._load_optimizer(optimizer, state["optimizers"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise JobError(
                "checkpoint.uri: expected a checkpoint of this model and method, got another one "
                f"({error})",
                fix="rename the run or remove the old checkpoints",
            ) from error
        self.step_count = state["step"]
        bad_steps = state.get("bad_steps", [])  # older checkpoints have none
        self._bad_steps = [(step, tuple(keys)) for step, keys in bad_steps]
        self._pending = []

    def _load(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        own, fitted = module.state_dict(), self.parallel.fitted
        module.load_state_dict(
            {name: fitted(value, own.get(name, value)) for name, value in state.items()}
        )

    def _load_optimizer(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """The states of parameters go by the numbers of these. How an optimizer computes is not the
        checkpoint's."""
        groups = (group["params"] for group in optimizer.param_groups)
        own = dict(enumerate(one for group in groups for one in group))

        def fitted(number: int, values: dict[str, Any]) -> dict[str, Any]:
            like = own.get(number)
            return {
                name: laid_out_as(self.parallel.fitted(value, like), like)
                for name, value in values.items()
            }

        states = {number: fitted(number, values) for number, values in state["state"].items()}
        computed = [
            {**saved, **{key: group[key] for key in ("foreach", "fused") if key in group}}
            for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
        ]
        optimizer.load_state_dict({**state, "state": states, "param_groups": computed})

    def _back_propagate(
        self, sources: Sequence[Batch], targets: Sequence[Batch | None]
    ) -> dict[str, Tensor]:
        """Gradients of the parts' mean -> its unweighted losses by name."""
        logged: dict[str, Tensor] = {}
        for source, target in zip(sources, targets, strict=True):
            for term in self._terms(source, target):
                (term.loss / len(sources)).backward()
                for name, value in term.logged.items():
                    logged[name] = logged.get(name, 0) + value.detach() / len(sources)
        return logged

    def _terms(self, source: Batch, target: Batch | None) -> Iterator[Any]:
        """The method's terms, each computed under the step's precision and handed out outside of
        it."""
        terms = self.method.terms(source, target)
        while True:
            with self._autocast(), self._batch_norm():
                term = next(terms, None)
            if term is None:
                return
            yield term

    def _batch_norm(self) -> AbstractContextManager[Any]:
        synced = self.train_config.sync_batch_norm and num_ranks() > 1
        return SyncBatchNorm() if synced else nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        return PRECISIONS[self.train_config.precision](self.device.type)

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.method.parameters() if p.grad is not None]

    def _all_finite(self, logged: dict[str, Tensor]) -> Tensor:
        """A bool on the device: all ranks' losses and gradients are finite."""
        own = [local_part(gradient) for gradient in self._gradients()]
        values = [*logged.values(), nn.utils.get_total_norm(own)]
        return on_all_ranks(torch.stack([value.detach().isfinite() for value in values]).all())

    def _move(self, taken: Tensor, buffers: Kept) -> None:
        """Move every network, where `taken` is true; else all, `buffers` too, stays as it was."""
        self._clip()
        for optimizer in self.optimizers.values():
            step_where(taken, optimizer)
        buffers.put_back_unless(taken)
        self.step_count += 1
        self.method.after_step(self.step_count, taken)
        if self.average is not None:
            self.average.follow(self.method.segmenter, self.step_count, taken)

    def _seed_of(self, *place: int) -> int:
        """A resumed job draws what it would have drawn, and each rank its own dropout."""
        entropy = (self._seed, *place)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def _clip(self) -> None:
        if self.train_config.clip_norm is not None:
            segmenter, *others = self.method.learning()
            whole = nn.ModuleList([segmenter, self.method.add_ons])
            for network in (whole, *others):
                nn.utils.clip_grad_norm_(network.parameters(), self.train_config.clip_norm)
