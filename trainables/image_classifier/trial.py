"""Trains one image classifier: what a slice does, what it measures, and the exact state between any two slices.

Shapes: B images of a batch, P weights of all parameters in one vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from trainables.contract import Member, State
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
from trainables.image_classifier.state import fill, flat, within
from trainables.image_classifier.steps import EagerStep, Step
from trainables.machine.torch_threads import torch_threads
from trainables.optimizers import check_state, make_optimizer, set_moments
from trainables.outcome import outcome
from trainables.packs.trial_run import Digests, Trainer
from trainables.provenance import provenance
from trainables.random_streams import Purpose, digest
from trainables.result import Outcome, Provenance, TracePoint

_T = TypeVar("_T")

# torch warns about capturable=True when a step runs without being recorded, as in the warm-up.
warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")


class ImageTrainer(Trainer):
    """Trains step by step on one device. A unit of work is a training step or a batch of evaluation."""

    point_type = ImageTracePoint

    def __init__(self, member: Member, engine: str, device: torch.device, num_threads: int) -> None:
        self.config = cast(ImageClassifierConfig, member.config)
        self.engine = self._used_engine = engine
        self.slices_grow = device.type == "cuda"  # a GPU computes while Python launches the next steps
        self._device, self._num_threads = device, num_threads
        self._epoch = self._step_count = self._position = 0
        self._lane: Lane | None = None
        self._closing, self._step_closing = ExitStack(), ExitStack()
        self._precise: PreciseErrors | None = None

    @property
    def epoch(self) -> int:
        """Number of epochs trained."""
        return self._epoch

    def run(self, function: Callable[[], _T]) -> _T:
        """Call the function with the trial's number of threads; on a GPU in its own lane, so trials do not queue."""

        def with_threads() -> _T:
            with torch_threads(self._num_threads):
                return function()

        if self._device.type != "cuda":
            return with_threads()
        if self._lane is None:
            self._lane = take_lane(self._device)
            self._closing.callback(give_lane_back, self._lane)
        return self._lane.run(with_threads)

    def arrays(self) -> State:
        """Weights, buffers, optimizer state, and how far this epoch is trained and measured."""
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
            "init_digest": np.array(self._init_digest),
        }

    def digests(self) -> Digests:
        """Hashes of the images, the initial weights and the first epoch's batch order."""
        return Digests(self.config.dataset_digest, self._init_digest, digest(epoch_order(self.config, 0)))

    def outcome(self, trace: Sequence[TracePoint]) -> Outcome:
        """The outcome, by the thresholds for the data's number of classes."""
        return outcome(trace, self.config.num_classes)

    def provenance(self) -> Provenance:
        """Where and with what it trains; the engine is eager if the step could not be recorded."""
        where = provenance(self._used_engine, self._device.type, self._num_threads)
        if self._device.type != "cuda":
            return where
        name, peak = torch.cuda.get_device_name(self._device), torch.cuda.max_memory_reserved(self._device)
        return replace(where, device_name=name, peak_memory_bytes=peak)

    def close(self) -> None:
        """Release the recorded step's memory, then the lane."""
        self._step_closing.close()
        self._closing.close()

    # --- starting and resuming ---

    def begin(self, state: State | None, trace: Sequence[TracePoint]) -> None:
        """Make the model, its optimizer and its step on the device, and restore `state` if given."""
        config = self.config
        self._trace = cast(Sequence[ImageTracePoint], trace)
        self._release_network()
        self._epoch = self._step_count = self._position = 0
        self._precise = None
        self._images = device_images(config, self._device)
        model = initial_model(config)
        self._init_digest = digest(flat(model.parameters()))
        self._has_dropout = has_dropout(model)
        without_counters(model)
        self._model = model.to(self._device).to(memory_format=memory_format(config, self._device))
        self._parameters = list(self._model.parameters())
        self._optimizer = self._make_optimizer()
        self._step = self._make_step()
        self._step_closing.callback(self._step.close)
        self._evaluations = [
            SplitEvaluation(config, self._model, self._images, test=is_test) for is_test in (False, True)
        ]
        if state is not None:
            self._restore(state)
        self._begin_epoch()
        self._used_engine = self._step.engine

    def _release_network(self) -> None:
        """Give back the memory of the network that was made for a state that did not fit."""
        self._step_closing.close()
        for name in ("_model", "_parameters", "_optimizer", "_step", "_evaluations"):
            self.__dict__.pop(name, None)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        is_cuda = self._device.type == "cuda"
        variant: dict[str, Any] = {"fused": True} if self.config.bias_correction else {}
        if is_cuda and self.config.bias_correction:
            variant["capturable"] = True
        optimizer = make_optimizer(self.config, self._parameters, **variant)
        for w in self._parameters if self._has_moments else ():
            step = torch.zeros((), device=self._device if is_cuda else "cpu")
            set_moments(optimizer, w, step, torch.zeros_like(w), torch.zeros_like(w))
        return optimizer

    def _make_step(self) -> Step:
        augmentation = epoch_augmentation(self.config, 0, self._device)
        step = EagerStep(self.config, self._model, self._optimizer, self._images, augmentation, self._device)
        # A recording would grow with the number of micro-batches, which are launched fast enough without it.
        if self.engine == "graph-cuda" and not self._has_dropout and self.config.micro_batch_size is None:
            return GraphStep(step, self._mutable())
        if self._device.type == "cuda":  # evaluation comes first, and its memory does not tell how many members fit
            with self._dropout_stream():
                step.rehearse(self._mutable())
        return step

    def _mutable(self) -> list[Tensor]:
        """All tensors that a step changes."""
        moments = [t for state in self._optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return [*(w.detach() for w in self._parameters), *self._model.buffers(), *moments]

    def _restore(self, state: State) -> None:
        fill(self._parameters, state["weights"])
        fill(self._float_buffers(), state["buffers"])
        self._epoch, self._step_count = int(state["epoch"]), int(state["step"])
        self._position = within(int(state["position"]), self.config.num_train)
        if self._has_moments:
            for name in ("exp_avg", "exp_avg_sq"):
                fill(self._moments(name), state[name])
            for moment in self._optimizer.state.values():
                moment["step"].fill_(self._step_count)
        fill([self._step.sums], state["sums"])
        for part, saved in zip(self._evaluations, state["evaluated"], strict=True):
            part.restore(saved)
        if PreciseErrors.has_begun_in(state):
            self._precise = PreciseErrors(self.config, self._model, self._images)
            self._precise.restore(state)

    @property
    def _has_moments(self) -> bool:
        return self.config.optimizer.has_moments

    def _moments(self, name: str) -> list[Tensor]:
        return [self._optimizer.state[w][name] for w in self._parameters]

    def _float_buffers(self) -> list[Tensor]:
        """Running statistics, without BatchNorm's batch counters, which change no result."""
        return [buffer for buffer in self._model.buffers() if buffer.is_floating_point()]

    # --- training ---

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

    def train_slice(self, size: int) -> TracePoint | None:
        """Run up to `size` training steps or evaluation batches of this epoch; returns when the device has finished.

        The test images are evaluated after each epoch and before the first one; the training images are evaluated
        before the first epoch and after the last one.
        """
        point = self._do(size)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return point

    def _do(self, num_steps: int) -> ImageTracePoint | None:
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
            return self._end_epoch()
        return None

    def _train(self, num_steps: int) -> None:
        stop = min(self.config.num_train, self._position + num_steps * self.config.batch_size)
        for start in range(self._position, stop, self.config.batch_size):
            index_b = self._order[start : start + self.config.batch_size]
            with self._dropout_stream():
                self._step(index_b)
            self._step_count += 1
        self._position = stop
        check_state(self._optimizer, self.config)

    def _dropout_stream(self) -> AbstractContextManager[Any]:
        if not self._has_dropout:
            return nullcontext()
        gpus = [self._device] if self._device.type == "cuda" else []
        return seeded(torch_seed(self.config.seed, Purpose.DROPOUT, self._step_count), gpus)

    def _end_epoch(self) -> ImageTracePoint:
        """Return the point of this epoch, or of the initial weights, and start the next epoch."""
        on_train, on_test = self._evaluations
        sums = on_train.sums
        if self._trace:
            self._epoch += 1
            sums = self._step.sums
        point = self._point(sums / self.config.num_train, on_test.sums / self.config.num_test)
        self._step.sums.zero_()
        self._position = 0
        on_test.restart()
        if self._epoch < self.config.num_epochs:
            self._begin_epoch()
        return point

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
