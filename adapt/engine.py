"""One training step: back-propagate a method's terms as they come, then move every network.

Each term is back-propagated before the next is computed, so one graph is freed before another is
built (the papers' memory behaviour), and all optimizers step at the end, so a discriminator learns
from logits of the network as it was when the step began. The engine alone knows precision,
accumulation, clipping and ranks. Ranks average gradients once a step over c10d collectives rather
than in DistributedDataParallel's hooks, which expect one backward a forward and one network; a step
here has several of both.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from adapt.batch import Batch
from adapt.errors import JobError
from adapt.methods.method import Method
from adapt.optim import OptimConfig, build_optimizers, set_lr
from adapt.section import Section


class TrainConfig(Section):
    """How long and how precisely to train."""

    steps: int = Field(120_000, ge=1, description="Optimizer steps (ADVENT's figure).")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast; losses that need it stay in float32."
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts into which a rank's batch is split, one backward each, to save memory.",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Largest gradient norm of the segmentation network; none: no clipping.",
    )
    log_every_steps: int = Field(20, ge=1, description="Steps between two lines of the log.")


class Engine:
    """Trains the networks of one method.

    `step_count` optimizer steps are done.
    """

    def __init__(
        self, method: Method, train: TrainConfig, optim: OptimConfig, device: torch.device
    ) -> None:
        self.method = method.to(device)
        self.train_config, self.optim_config, self.device = train, optim, device
        self.optimizers = build_optimizers(optim, method)
        self.step_count = 0

    def step(self, source: Batch, target: Batch | None) -> dict[str, Tensor]:
        """One optimizer step on a batch of each domain -> unweighted losses by name, scalars on the
        device.

        Every rank passes its own part; gradients are averaged over ranks.
        """
        self.method.train()
        set_lr(self.optimizers, self.optim_config, self.step_count, self.train_config.steps)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        parts = self.train_config.accumulate
        logged: dict[str, Tensor] = {}
        sources = _split(source, parts)
        targets = [None] * parts if target is None else _split(target, parts)
        for source_part, target_part in zip(sources, targets, strict=True):
            for term in self._terms(source_part, target_part):
                (term.loss / parts).backward()
                for name, value in term.logged.items():
                    logged[name] = logged.get(name, 0) + value.detach() / parts
        self._average_gradients()
        self._clip()
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.step_count += 1
        self.method.after_step(self.step_count)
        return logged

    def mean_over_ranks(self, logged: dict[str, Tensor]) -> dict[str, float]:
        """Losses of one step as numbers, averaged over ranks.

        Waits for the device.
        """
        values = torch.stack([value.float() for value in logged.values()]).to(self.device)
        if dist.is_initialized():
            dist.all_reduce(values)
            values /= dist.get_world_size()
        return dict(zip(logged, values.tolist(), strict=True))

    def share_buffers(self) -> None:
        """Give every rank the leader's running statistics, before they are evaluated or saved."""
        if dist.is_initialized():
            for buffer in self.method.buffers():
                dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for the streams: networks, optimizers, step,
        random state."""
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return {
            "step": self.step_count,
            "method": self.method.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises `JobError` where it belongs to other networks.
        """
        try:
            self.method.load_state_dict(state["method"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise JobError(
                "checkpoint.uri: expected a checkpoint of this model and method, found another one "
                f"({error}); name the run anew or remove the old checkpoints"
            ) from error
        self.step_count = state["step"]
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        for cuda in state["rng"]["cuda"]:
            torch.cuda.set_rng_state(cuda.cpu(), self.device)

    def _terms(self, source: Batch, target: Batch | None) -> Iterator[Any]:
        """The method's terms, each computed under the step's precision and handed out outside of
        it."""
        terms = self.method.losses(source, target)
        while True:
            with self._autocast():
                term = next(terms, None)
            if term is None:
                return
            yield term

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self.train_config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _average_gradients(self) -> None:
        if not dist.is_initialized():
            return
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        flat = nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / dist.get_world_size(), gradients)

    def _clip(self) -> None:
        if self.train_config.clip_norm is not None:
            parameters = self.method.segmenter.parameters()
            nn.utils.clip_grad_norm_(parameters, self.train_config.clip_norm)


def prepare_device(local_rank: int) -> torch.device:
    """The device of this process: its GPU where there is one, else the CPU with denormals flushed
    to zero.

    Adversarial passes run far slower on denormal numbers; threads inherit the setting, so this
    comes first.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    torch.set_flush_denormal(True)
    return torch.device("cpu")


def _split(batch: Batch, parts: int) -> list[Batch]:
    size = len(batch.keys) // parts
    return [_slice(batch, slice(part * size, (part + 1) * size)) for part in range(parts)]


def _slice(batch: Batch, rows: slice) -> Batch:
    labels = None if batch.labels is None else batch.labels[rows]
    return Batch(batch.images[rows], labels, batch.keys[rows])
