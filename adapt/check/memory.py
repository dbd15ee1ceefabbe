"""How much GPU memory a job's step takes: the engine's real step, run on tensors without memory.

Networks, losses, backward passes and optimizers are the job's own; PyTorch's fake tensors have
their shapes and no bytes. What is alive is counted by storage, and its peak found afterwards. Two
steps are run, since optimizers make their state in the first. The CPU's kernels stand for the
GPU's: workspaces of those are in `MARGIN_BYTES` and `MARGIN_SHARE`.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import accumulate
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adapt.batch import Batch
from adapt.engine.agreeing import Agreeing
from adapt.engine.engine import Engine
from adapt.engine.parallel import mesh
from adapt.engine.sync_batch_norm import SyncBatchNorm
from adapt.errors import JobError
from adapt.methods import METHODS
from adapt.methods.pinned import pinned_networks
from adapt.ranks import local_part
from adapt.spec.job_spec import JobSpec
from adapt.stream.domains import Part
from adapt.trainer.networks import build_without_memory

MARGIN_BYTES = 1_500_000_000
"""Of the CUDA context and of the workspaces of cuDNN, cuBLAS and NCCL."""

MARGIN_SHARE = 0.1
"""Of the peak: losses of PyTorch's allocator to rounding and fragments."""

Sizes = Mapping[str, tuple[int, int]]
"""Name of a dataset of the job -> height and width in pixels of its packed images."""

Batches = Callable[[], tuple[Batch, Batch | None]]


class Peak(NamedTuple):
    """Bytes alive on one GPU when most are; `parameters` with buffers, `activations` with batches
    and all else."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    @property
    def needed(self) -> int:
        """The memory that the GPU should have: the total and the margin."""
        return int(self.total * (1 + MARGIN_SHARE)) + MARGIN_BYTES


def predicted_bytes(job: JobSpec, num_ranks: int, packed_hw: Sizes = MappingProxyType({})) -> Peak:
    """The peak of one of `num_ranks` ranks. Allocates nothing of that size; takes seconds.

    `packed_hw` is needed of datasets whose images have no size in the spec. Raises `JobError` where
    it is missing, or where model, method and optimizers do not fit one another.
    """
    method = build_without_memory(job)
    sizes = {key: batch_hw(job.trained_parts(key), packed_hw) for key in _domains(job)}
    labelled = {"source": True, "target": METHODS[job.method.name].labels_target()}

    def engine() -> Engine:
        return Engine(method, job.train, job.optim, torch.device("cpu"), job.seed)

    def batches() -> tuple[Batch, Batch | None]:
        source, target = (
            _batch(job.batch_size(key) // num_ranks, sizes[key], labelled=labelled[key])
            if key in sizes
            else None
            for key in ("source", "target")
        )
        assert source is not None, "every job has a source"
        return source, target

    sharded = job.train.parallel == "fsdp2" and num_ranks > 1
    synced = SyncBatchNorm() if job.train.sync_batch_norm and num_ranks > 1 else nullcontext()
    others = _others(num_ranks) if sharded else nullcontext()
    with others, FakeTensorMode(allow_non_fake_inputs=True), Agreeing():
        return step_peak(engine, batches, nullcontext() if sharded else synced)


@contextmanager
def _others(num_ranks: int) -> Iterator[None]:
    """Within it this process is one of so many ranks, whose messages go nowhere."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        mesh("cpu")
        yield
    finally:
        dist.destroy_process_group()


def step_peak(
    build: Callable[[], Engine], batches: Batches, within: AbstractContextManager[Any] | None = None
) -> Peak:
    """The peak of two steps of the engine that `build` makes, on real or fake tensors.

    While a batch is learned from, the one after it is on its way, as on a GPU.
    """
    with LiveStorages() as live, within or nullcontext():
        engine = build()
        coming = batches()
        for _ in range(2):
            batch, coming = coming, batches()
            engine.step(*batch)
            live.mark(_kinds(engine))
    return live.peak()


def batch_hw(parts: Sequence[Part], packed_hw: Sizes) -> tuple[int, int]:
    """Height and width in pixels of a domain's largest batches, which draw from `parts`.

    Raises `JobError` where neither the spec nor `packed_hw` has them.
    """
    return max((_image_hw(part, packed_hw) for part in parts), key=math.prod)


def _image_hw(part: Part, packed_hw: Sizes) -> tuple[int, int]:
    size_hw = part.config.image_hw or packed_hw.get(part.name)
    if size_hw is None:
        raise JobError(
            f"{part.key}.size_hw: expected a size, by which the memory of a step is predicted, got "
            "none",
            fix=f"set it, or {part.key}.augment.crop_hw",
        )
    return size_hw


class LiveStorages(TorchDispatchMode):
    """Records, within it, when each tensor's storage is allocated and freed."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: list[int] = []
        self._kinds: dict[int, str] = {}
        self._events: list[int] = []
        self._here: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    def mark(self, kinds: Mapping[str, list[Tensor]]) -> None:
        """Name the kind of tensors, a field of `Peak`; others are activations."""
        for kind, tensors in kinds.items():
            self._kinds |= {self._number(tensor): kind for tensor in tensors}

    def peak(self) -> Peak:
        """The storages alive at the peak, the first if there are several."""
        sizes = [
            self._sizes[event] if event >= 0 else -self._sizes[~event] for event in self._events
        ]
        totals = list(accumulate(sizes))
        until = totals.index(max(totals)) + 1 if totals else 0
        alive: set[int] = set()
        for event in self._events[:until]:
            alive.add(event) if event >= 0 else alive.discard(~event)
        bytes_of = dict.fromkeys(Peak._fields, 0)
        for number in alive:
            bytes_of[self._kinds.get(number, "activations")] += self._sizes[number]
        return Peak(**bytes_of)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function and record the storages of its results."""
        outputs = function(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self._number(output)
        self._note_resized()
        return outputs

    def _note_resized(self) -> None:
        """A storage that a sharded network's block has emptied is gone until it is filled again."""
        if dist.is_initialized():
            for address, (number, storage) in list(self._here.items()):
                alive = storage()
                if alive is not None and alive.nbytes() != self._sizes[number]:
                    self._gone(address)
                    self._add(alive)

    def _number(self, tensor: Tensor) -> int:
        """Of the tensor's storage, in the order of their coming."""
        storage = local_part(tensor).untyped_storage()
        if storage._cdata not in self._here:
            self._add(storage)
        return self._here[storage._cdata][0]

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, number = storage._cdata, len(self._sizes)
        self._sizes.append(storage.nbytes())
        self._events.append(number)
        gone = weakref.ref(storage, lambda _: self._gone(address))
        self._here[address] = number, gone

    def _gone(self, address: int) -> None:
        number, _ = self._here.pop(address)
        self._events.append(~number)


def _domains(job: JobSpec) -> list[str]:
    """The domains that the method needs."""
    needed = METHODS[job.method.name].needs_target
    return ["source", "target"] if needed and job.target is not None else ["source"]


def _batch(size: int, size_hw: tuple[int, int], *, labelled: bool) -> Batch:
    images = torch.empty(size, 3, *size_hw)
    labels = torch.empty(size, *size_hw, dtype=torch.int64) if labelled else None
    return Batch(images, labels, ("",) * size)


def _kinds(engine: Engine) -> dict[str, list[Tensor]]:
    """The engine's own tensors after a step."""
    networks = engine.modules()
    parameters, buffers = list(networks.parameters()), list(networks.buffers())
    for pinned in pinned_networks(networks):
        buffers += [*pinned.parameters(), *pinned.buffers()]
    states = [o.state.values() for o in engine.optimizers.values()]
    return {
        "parameters": [*parameters, *buffers],
        "gradients": [one.grad for one in parameters if one.grad is not None],
        "optimizer": [
            value
            for state in states
            for values in state
            for value in values.values()
            if isinstance(value, Tensor)
        ],
    }
