"""One evaluation of a job's networks, by the rules of its spec's `evaluate`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adapt.engine.engine import Engine
from adapt.evaluation.evaluate import Evaluation, evaluate
from adapt.evaluation.label_free import TEACHER_AGREEMENT, without_average
from adapt.evaluation.metrics import subset_classes
from adapt.evaluation.protocol import EMA, STUDENT, TEACHER
from adapt.models.segmenter import Segmenter
from adapt.trainer.candidates import Candidates
from adapt.trainer.opening import Opened, decoding_threads
from adapt.trainer.selection import Selection


class Evaluator:
    """Evaluates the networks of `Engine.networks` on the validation split.

    All ranks call the same methods in the same order. `beat` is called after every image; each
    method raises `Interrupted` where `stopped` returns true on any rank.
    """

    def __init__(
        self,
        opened: Opened,
        engine: Engine,
        beat: Callable[[], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._opened, self._engine, self._beat, self._stopped = opened, engine, beat, stopped
        self._candidates = Candidates(opened, engine.device)
        self._of_teacher: Evaluation | None = None

    def evaluate(self) -> dict[str, Evaluation]:
        """By network, those of the spec, and the teacher where there is one."""
        teacher = [name for name in self._engine.networks() if name == TEACHER]
        names = [*self._opened.job.evaluate.networks, *teacher]
        return {name: self._found(name) for name in names}

    def agreement(self, selection: Selection) -> dict[int, float]:
        """By step the agreement of the network that counts and of the candidates with all of them
        together, in [0, 1]."""
        step = self._engine.step_count
        earlier = [one.step for one in selection.candidates if one.step < step]
        with self._engine.used(self._opened.job.evaluate.weights) as network:
            return self._candidates.agreement(network, step, earlier, self._beat, self._stopped)

    def _found(self, name: str) -> Evaluation:
        """An evaluation; one for all of a teacher that never changes."""
        if name == TEACHER and self._of_teacher is not None:
            return self._of_teacher
        with self._engine.used(name) as network, self._beside(name) as average:
            found = self._evaluation(name, network, average)
        if name == TEACHER and self._engine.method.teacher_is_fixed:
            self._of_teacher = found
        return found

    @contextmanager
    def _beside(self, name: str) -> Iterator[Segmenter | None]:
        """The moving average that a network's classes are compared with, of the average the
        student; None where no score asks for it."""
        other = {STUDENT: EMA, EMA: STUDENT}.get(name)
        if other is None or TEACHER_AGREEMENT not in self._opened.job.evaluate.label_free_scores:
            yield None
            return
        with self._engine.used(other) as network:
            yield network

    def _evaluation(self, name: str, network: Segmenter, average: Segmenter | None) -> Evaluation:
        """Evaluate one network; the one that counts with pictures."""
        job, place, validation = self._opened.job, self._opened.place, self._opened.data.validation
        assert validation is not None, "no evaluation is due without a validation split"
        counts = name == job.evaluate.weights
        return evaluate(
            network,
            validation,
            self._engine.device,
            views=job.evaluate,
            subsets=subset_classes(job.evaluate.subsets, job.classes.names),
            label_free=without_average(job.evaluate.label_free_scores, average),
            average=average,
            threads=decoding_threads(job.stream, place),
            batch_size=job.evaluate.batch_size,
            num_pictures=job.evaluate.pictures if counts else 0,
            num_worst=job.report.worst if counts and job.report.enabled else 0,
            rank=place.rank,
            num_ranks=place.num_ranks,
            on_image=self._beat,
            stopped=self._stopped,
        )
