"""The networks of a run's earlier checkpoints, beside which the present one is scored
(`evaluate.select_by: ensemble_agreement`)."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from adapt.checkpoint.run_folder import RunFolder
from adapt.errors import DataError
from adapt.evaluation.agreement import agreements
from adapt.models.segmenter import Segmenter
from adapt.models.weights import WEIGHTS
from adapt.ranks import any_rank
from adapt.trainer.networks import network_of_file
from adapt.trainer.opening import Opened, decoding_threads
from storage.errors import StoreError

log = logging.getLogger(__name__)


class Candidates:
    """Scores a network beside those of earlier checkpoints, which every rank reads from the run's
    folder, each once, and holds in the CPU's memory between evaluations.

    All ranks call the same methods in the same order.
    """

    def __init__(self, opened: Opened, device: torch.device) -> None:
        self._opened, self._device = opened, device
        self._networks: dict[int, Segmenter] = {}

    def agreement(
        self,
        now: Segmenter,
        step: int,
        earlier: Sequence[int],
        on_image: Callable[[], None],
        stopped: Callable[[], bool],
    ) -> dict[int, float]:
        """By step the agreement of each network with the mean prediction of all, in [0, 1]: of
        `now`, of this `step`, and of the checkpoints of earlier steps that can be read.

        Takes a pass of every network over the validation split. Raises `Interrupted` where
        `stopped` returns true on any rank.
        """
        job, place, validation = self._opened.job, self._opened.place, self._opened.data.validation
        assert validation is not None, "no evaluation is due without a validation split"
        networks = self._read(earlier)
        for network in networks.values():
            network.to(self._device)
        try:
            found = agreements(
                [*networks.values(), now],
                validation,
                self._device,
                views=job.evaluate,
                threads=decoding_threads(job.stream, place),
                rank=place.rank,
                num_ranks=place.num_ranks,
                on_image=on_image,
                stopped=stopped,
            )
        finally:
            for network in networks.values():
                network.to("cpu")
        return dict(zip((*networks, step), found, strict=True))

    def _read(self, steps: Sequence[int]) -> dict[int, Segmenter]:
        """The networks of these steps, oldest first; those that a rank cannot read are left out
        on all, with a warning."""
        found = {}
        for step in steps:
            known = self._networks.get(step)
            network = self._from_folder(step) if known is None else known
            if not any_rank(network is None)[0]:
                assert network is not None, "no rank misses it"
                found[step] = network
        self._networks = found
        return dict(found)

    def _from_folder(self, step: int) -> Segmenter | None:
        folder, job = self._opened.folder, self._opened.job
        try:
            with tempfile.TemporaryDirectory(prefix="segadapt-candidate-") as path:
                name = _name_of(folder, step)
                folder.deliver(name, Path(path))
                file = Path(path) / WEIGHTS
                classes = job.classes.num_classes
                where = f"{folder.uri}/{name}/{WEIGHTS}"
                return network_of_file(job.model, classes, file, where, self._opened.stores)
        except (DataError, StoreError) as error:
            log.warning("step %d is no candidate any more: %s", step, error)
            return None


def _name_of(folder: RunFolder, step: int) -> str:
    saved = folder.of_step(step)
    if saved is None:
        raise DataError(f"{folder.uri}: expected a checkpoint of step {step}, got none")
    return saved.name
