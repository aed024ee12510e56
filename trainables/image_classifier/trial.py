"""One image classifier in training: the loop, what it measures, and its exact state between any two steps.

Shapes: B images of a batch, P weights of all parameters in one vector.
"""

from __future__ import annotations

import time
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import astuple, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trainables.certificates import Certificate
from trainables.contract import Member, Report, State
from trainables.image_classifier.batches import epoch_augmentation, epoch_order
from trainables.image_classifier.config import ImageClassifierConfig, ImageTracePoint
from trainables.image_classifier.device import Lane, device_images, give_lane_back, take_lane
from trainables.image_classifier.evaluation import SplitEvaluation
from trainables.image_classifier.graph_step import GraphStep
from trainables.image_classifier.models import (
    has_dropout,
    initial_model,
    memory_format,
    seeded,
    torch_seed,
    without_counters,
)
from trainables.image_classifier.precise_batchnorm import PreciseErrors
from trainables.image_classifier.state import fill, flat, point_from_row
from trainables.image_classifier.steps import EagerStep, Step
from trainables.optimizers import make_optimizer, set_moments
from trainables.outcome import is_finite, outcome
from trainables.provenance import provenance
from trainables.random_streams import Purpose, digest
from trainables.result import Outcome, TrialResult
from trainables.torch_threads import torch_threads

# A step is warmed up without being recorded, which torch finds worth a warning.
warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")


class ImageMemberRun:
    """One trial on one device; opened lazily, so that a fault in its data is its own."""

    def __init__(self, member: Member, engine: str, device: torch.device, num_threads: int) -> None:
        self.config = cast(ImageClassifierConfig, member.config)
        self.has_begun = False
        self._until_epoch = min(member.until_epoch, self.config.num_epochs)
        self._given_state = member.state
        self._engine, self._device, self._num_threads = engine, device, num_threads
        self._train_seconds = 0.0
        self._trace: list[ImageTracePoint] = []
        self._num_reported = 0
        self._epoch = self._step_count = self._position = 0
        self._init_digest: str | None = None
        self._lane: Lane | None = None
        self._closing = ExitStack()
        self._precise: PreciseErrors | None = None

    def advance(self, deadline: float) -> Report:
        """Train and measure until the deadline (at least one step or batch) or the end."""
        if self._device.type != "cuda":
            return self._advance(deadline)
        if self._lane is None:  # its own, so that trials side by side do not wait for each other
            self._lane = take_lane(self._device)
            self._closing.callback(give_lane_back, self._lane)
        return self._lane.run(lambda: self._advance(deadline))

    def _advance(self, deadline: float) -> Report:
        with torch_threads(self._num_threads):
            return self._train_until(deadline)

    def _train_until(self, deadline: float) -> Report:
        started = time.perf_counter()
        if not self.has_begun:
            self._begin()
        num_steps = 1
        while not self._has_ended:
            slice_started = time.monotonic()
            self._do(num_steps)
            now = time.monotonic()
            if now >= deadline:
                break
            # A device works on while Python runs ahead: slices grow while they are short beside what is left.
            if self._device.type == "cuda":
                num_steps = num_steps * 2 if now - slice_started < 0.1 * (deadline - now) else max(1, num_steps // 2)
        self._train_seconds += time.perf_counter() - started
        points, self._num_reported = tuple(self._trace[self._num_reported :]), len(self._trace)
        return Report(self.config.trial_id, self._epoch, points, self._result() if self._has_ended else None)

    def failed(self, error: str) -> Report:
        """The report of a trial that raised `error`."""
        result = self._make_result(Outcome.FAILED, error)
        return Report(self.config.trial_id, self._epoch, (), result)

    def state_arrays(self) -> State:
        """Everything needed to go on exactly here."""
        moments = {name: flat(self._moments(name)) for name in ("exp_avg", "exp_avg_sq")} if self._has_moments else {}
        return {
            "epoch": np.array(self._epoch),
            "step": np.array(self._step_count),
            "position": np.array(self._position),
            "weights": flat(self._model.parameters()),
            "buffers": flat(self._float_buffers()),
            **moments,
            "sums": self._step.sums.cpu().numpy().copy(),
            "evaluated": np.array([part.state() for part in self._evaluations]),
            **({} if self._precise is None else self._precise.state_arrays()),
            "trace": np.array([astuple(point) for point in self._trace], np.float64),
            "train_seconds": np.array(self._train_seconds),
            "engine": np.array(self._engine),
            "init_digest": np.array(self._init_digest),
        }

    def close(self) -> None:
        """Give back the memory of the recorded step, then the stream."""
        self._closing.close()

    # --- beginning and going on ---

    def _begin(self) -> None:
        config = self.config
        self._images = device_images(config, self._device)
        model = initial_model(config)
        self._init_digest = digest(flat(model.parameters()))
        self._has_dropout = has_dropout(model)
        without_counters(model)
        self._model = model.to(self._device).to(memory_format=memory_format(config, self._device))
        self._parameters = list(self._model.parameters())
        is_cuda = self._device.type == "cuda"
        variant: dict[str, Any] = {"fused": True} if config.bias_correction else {}
        if is_cuda and config.bias_correction:
            variant["capturable"] = True
        self._optimizer = make_optimizer(config, self._parameters, **variant)
        for w in self._parameters if self._has_moments else ():
            step = torch.zeros((), device=self._device if is_cuda else "cpu")
            set_moments(self._optimizer, w, step, torch.zeros_like(w), torch.zeros_like(w))
        self._step = self._make_step()
        self._closing.callback(self._step.close)
        self._evaluations = [
            SplitEvaluation(config, self._model, self._images, test=is_test) for is_test in (False, True)
        ]
        state = self._given_state
        if state is not None and str(state["engine"]) == self._engine:  # another engine rounds differently
            self._restore(state)
        self._given_state = None
        self._begin_epoch()
        self.has_begun = True

    def _make_step(self) -> Step:
        augmentation = epoch_augmentation(self.config, 0, self._device)
        step = EagerStep(self.config, self._model, self._optimizer, self._images, augmentation, self._device)
        # A recording of micro-batches would be as long as they are many, and they are launched fast enough.
        if self._engine == "graph-cuda" and not self._has_dropout and self.config.micro_batch_size is None:
            return GraphStep(step, self._mutable())
        if self._device.type == "cuda":  # measuring comes first, and says little of how many members there is room for
            with self._dropout_stream():
                step.rehearse(self._mutable())
        return step

    def _mutable(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        moments = [t for state in self._optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return [*(w.detach() for w in self._parameters), *self._model.buffers(), *moments]

    def _restore(self, state: State) -> None:
        weights = np.asarray(state["weights"])
        if weights.size != sum(w.numel() for w in self._parameters):
            raise ValueError(f"a state of {weights.size} weights is not this trial's")
        fill(self._parameters, weights)
        fill(self._float_buffers(), state["buffers"])
        self._epoch, self._step_count = int(state["epoch"]), int(state["step"])
        self._position = int(state["position"])
        if self._has_moments:
            for name in ("exp_avg", "exp_avg_sq"):
                fill(self._moments(name), state[name])
            for moment in self._optimizer.state.values():
                moment["step"].fill_(self._step_count)
        self._step.sums.copy_(torch.from_numpy(np.array(state["sums"])))
        for part, saved in zip(self._evaluations, state["evaluated"], strict=True):
            part.restore(saved)
        if PreciseErrors.has_begun_in(state):
            self._precise = PreciseErrors(self.config, self._model, self._images)
            self._precise.restore(state)
        self._trace = [point_from_row(row) for row in state["trace"]]
        self._num_reported = len(self._trace)
        self._train_seconds = float(state["train_seconds"])

    @property
    def _has_moments(self) -> bool:
        return self.config.optimizer.has_moments

    def _moments(self, name: str) -> list[Tensor]:
        return [self._optimizer.state[w][name] for w in self._parameters]

    def _float_buffers(self) -> list[Tensor]:
        """Running statistics; the counters beside them enter no number."""
        return [buffer for buffer in self._model.buffers() if buffer.is_floating_point()]

    # --- training ---

    @property
    def _has_ended(self) -> bool:
        return bool(self._trace) and (self._epoch >= self._until_epoch or not is_finite(self._trace[-1]))

    @property
    def _is_last_epoch(self) -> bool:
        return bool(self._trace) and self._epoch + 1 == self.config.num_epochs

    def _begin_epoch(self) -> None:
        self._order = torch.from_numpy(epoch_order(self.config, self._epoch)).to(self._images.home)
        augmentation = epoch_augmentation(self.config, self._epoch, self._device)
        if augmentation is not None:
            assert self._step.augmentation is not None
            self._step.augmentation.mirrored.copy_(augmentation.mirrored)
            self._step.augmentation.corners.copy_(augmentation.corners)

    def _do(self, num_steps: int) -> None:
        """Up to that many steps, or batches of evaluation, of this epoch; returns when the device has done them.

        Evaluated are the test images after each epoch, and before the first one and after the last the training images
        too.
        """
        on_train, on_test = self._evaluations
        if not (self._trace or on_train.is_done):
            on_train.advance(num_steps)
        elif self._trace and self._position < self.config.num_train:
            self._train(num_steps)
        elif not on_test.is_done:
            on_test.advance(num_steps)
        elif self._precise is not None:
            self._precise.advance(num_steps)
        if on_test.is_done and self._precise is None and self._is_last_epoch:
            self._precise = PreciseErrors(self.config, self._model, self._images)
        elif on_test.is_done and (self._precise is None or self._precise.is_done):
            self._end_epoch()
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _train(self, num_steps: int) -> None:
        stop = min(self.config.num_train, self._position + num_steps * self.config.batch_size)
        for start in range(self._position, stop, self.config.batch_size):
            index_b = self._order[start : start + self.config.batch_size]
            with self._dropout_stream():
                self._step(index_b)
            self._step_count += 1
        self._position = stop

    def _dropout_stream(self) -> AbstractContextManager[Any]:
        if not self._has_dropout:
            return nullcontext()
        gpus = [self._device] if self._device.type == "cuda" else []
        return seeded(torch_seed(self.config.seed, Purpose.DROPOUT, self._step_count), gpus)

    def _end_epoch(self) -> None:
        """Add the point of an epoch, or of the initial weights, and go on to the next."""
        on_train, on_test = self._evaluations
        sums = on_train.sums
        if self._trace:
            self._epoch += 1
            sums = self._step.sums
        self._trace.append(self._point(sums / self.config.num_train, on_test.sums / self.config.num_test))
        self._step.sums.zero_()
        self._position = 0
        on_test.restart()
        if self._epoch < self.config.num_epochs:
            self._begin_epoch()

    def _point(self, train: Tensor, test: Tensor) -> ImageTracePoint:
        train_loss, train_error, train_top5_error = train.tolist()
        test_loss, test_error, test_top5_error = test.tolist()
        best = (self._trace[-1].best_test_error, self._trace[-1].best_epoch) if self._trace else (test_error, 0)
        best_test_error, best_epoch = min(best, (test_error, self._epoch))
        squares = torch.stack([w.detach().double().square().sum() for w in self._parameters])
        return ImageTracePoint(
            epoch=self._epoch,
            train_loss=train_loss,
            train_error=train_error,
            test_error=test_error,
            weight_norm=float(squares.sum().sqrt()),
            train_top5_error=train_top5_error,
            test_loss=test_loss,
            test_top5_error=test_top5_error,
            best_epoch=best_epoch,
            best_test_error=best_test_error,
            **({} if self._precise is None else self._precise.means()),
        )

    def _result(self) -> TrialResult:
        ran_to_end = self._epoch >= self.config.num_epochs or not is_finite(self._trace[-1])
        ending = outcome(self._trace, self.config.num_classes) if ran_to_end else Outcome.UNFINISHED
        return self._make_result(ending)

    def _make_result(self, ending: Outcome, error: str | None = None) -> TrialResult:
        where = provenance(self._step.engine if self.has_begun else self._engine, self._device.type, self._num_threads)
        if self._device.type == "cuda":
            name, peak = torch.cuda.get_device_name(self._device), torch.cuda.max_memory_reserved(self._device)
            where = replace(where, device_name=name, peak_memory_bytes=peak)
        is_proven = ending is Outcome.DIVERGED and not is_finite(self._trace[-1])
        return TrialResult(
            config=self.config,
            outcome=ending,
            epochs_done=self._epoch,
            trace=tuple(self._trace),
            data_digest=self.config.dataset_digest if self.has_begun else None,
            init_digest=self._init_digest if self.has_begun else None,
            order_digest=digest(epoch_order(self.config, 0)) if self.has_begun else None,
            train_seconds=self._train_seconds,
            finished_at=time.time(),
            provenance=where,
            error=error,
            certificate=Certificate.NON_FINITE if is_proven else None,
            certificate_epoch=self._epoch if is_proven else None,
        )
