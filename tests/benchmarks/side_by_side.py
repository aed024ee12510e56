"""Times several trials on one device, four ways, in one run: `python -m tests.benchmarks.side_by_side [--members N]`.

One after another (the baseline; on a CPU with all cores), in threads of one process (on a GPU each with its stream), in
processes, and as one vectorized model (torch.vmap over stacked weights, one fused optimizer). Numbers are images a
second of all trials together. On a CPU threads and processes share the cores evenly, at least one each. Rounds
alternate, medians count. The vectorized model is first shown to train as the product's step does.

Shapes: M trials, B images of a batch.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.benchmarks.images import CORES, ROUNDS, begin, images_a_second, make_config, random_images, spread
from trainables.contract import Member
from trainables.image_classifier.batches import epoch_order
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.device import device_images, open_device
from trainables.image_classifier.models import initial_model, without_counters
from trainables.image_classifier.steps import EagerStep, autocast
from trainables.image_classifier.trial import ImageTrainer
from trainables.image_classifier.workload import ENGINES
from trainables.image_data.cache import CACHE_VARIABLE
from trainables.image_data.images import DATA_VARIABLE
from trainables.optimizers import make_optimizer
from trainables.packs.pack_run import MemberPackRun
from trainables.packs.trial_run import TrialRun
from trainables.provenance import provenance

_WARM_UP_STEPS = 3
_CHECKED_STEPS = 5

Timed = Callable[[float], float]
"""Trains for some seconds; returns the images a second of all trials together."""


def main() -> None:
    """Print images a second of each way and its ratio to one after another."""
    is_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cifar10; random images without it")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round")
    parser.add_argument("--members", type=int, default=8 if is_gpu else CORES, help="trials at once")
    arguments = parser.parse_args()
    device = "cuda" if is_gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        os.environ[DATA_VARIABLE] = str(arguments.data or random_images(Path(folder)))
        where = provenance("images", device, CORES, torch.cuda.get_device_name() if is_gpu else None)
        print(
            f"{where.device_name}, {CORES} cores, torch {torch.__version__}; {arguments.members} trials; "
            f"medians [min-max] of {ROUNDS} rounds of {arguments.seconds:g} s; images a second"
        )
        architecture = "resnet18" if is_gpu else "resnet8"
        check(architecture, device)
        precisions = ("float32", "bfloat16") if is_gpu else ("float32",)
        # all ways stay in memory together: 25 trials at B = 1024 are more than a GPU of 80 GB holds
        batch_sizes = (16, 256) if is_gpu else (16, 256, 1024)
        for batch_size, precision in itertools.product(batch_sizes, precisions):
            seeds = range(arguments.members)
            configs = [make_config(architecture, batch_size, seed, precision) for seed in seeds]
            compare(configs, device, arguments.seconds)


def compare(configs: Sequence[ImageClassifierConfig], device: str, seconds: float) -> None:
    """One line for each way."""
    share = max(1, CORES // len(configs))
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        ways: dict[str, Timed] = {
            "one after another": pack(configs[:1], device, CORES),
            "threads": pack(configs, device, share),
            "processes": processes(configs, device, share, stack),
            "vectorized": Vectorized(configs, device, recorded=device == "cuda").timed,
        }
        for _, (way, run) in itertools.product(range(ROUNDS), ways.items()):
            rates.setdefault(way, []).append(run(seconds))
    baseline = statistics.median(rates["one after another"])
    for way, found in rates.items():
        c = configs[0]
        ratio = statistics.median(found) / baseline
        print(f"{c.architecture}, B={c.batch_size}, {c.precision}, {way}: {spread(found)}, {ratio:.2f}x", flush=True)


def pack(configs: Sequence[ImageClassifierConfig], device: str, num_threads: int) -> Timed:
    """The product's members, all at once."""
    on_device = open_device(device, len(configs)).torch_device

    def open_member(member: Member) -> TrialRun:
        return TrialRun(member, ImageTrainer(member, ENGINES[device][0], on_device, num_threads))

    members = [Member(config, config.num_epochs) for config in configs]
    run = MemberPackRun(members, open_member, lambda _: len(members))
    begin(run)
    return partial(images_a_second, run)


def processes(configs: Sequence[ImageClassifierConfig], device: str, num_threads: int, stack: ExitStack) -> Timed:
    """Each trial in a process of its own; they live until `stack` closes."""
    spawned = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    for config in configs:
        here, there = spawned.Pipe()
        process = spawned.Process(target=serve, args=(there, config, device, num_threads), daemon=True)
        process.start()
        stack.callback(process.join)
        stack.callback(here.send, None)
        ends.append(here)
    for end in ends:
        end.recv()  # it is ready

    def timed(seconds: float) -> float:
        for end in ends:
            end.send(seconds)
        return sum(end.recv() for end in ends)

    return timed


def serve(end: Connection, config: ImageClassifierConfig, device: str, num_threads: int) -> None:
    """A process's work: a round for each number of seconds that arrives."""
    timed = pack([config], device, num_threads)
    end.send(0.0)
    while (seconds := end.recv()) is not None:
        end.send(timed(seconds))


class Vectorized:
    """M trials as one model: stacked weights, one optimizer; on a GPU its step is a CUDA graph.

    All have one learning rate and one decay here; an optimizer with a rate and a decay per trial would do more work.
    """

    def __init__(self, configs: Sequence[ImageClassifierConfig], device: str, *, recorded: bool) -> None:
        self._configs, self._device = configs, torch.device(device)
        self._images = device_images(configs[0], self._device)
        models = [initial_model(config).to(self._device) for config in configs]
        for model in models:
            without_counters(model)
        self._weights, self._buffers = torch.func.stack_module_state(models)
        self._model = models[0].to("meta")
        variant: dict[str, Any] = {"fused": True, "capturable": True} if device == "cuda" else {"fused": True}
        self._optimizer = make_optimizer(configs[0], list(self._weights.values()), **variant)
        self._index_mb = torch.zeros(len(configs), configs[0].batch_size, dtype=torch.int64, device=self._device)
        self.loss_m = torch.zeros(len(configs), device=self._device)
        self._batches = self._forever()
        self._graph: torch.cuda.CUDAGraph | None = None
        if recorded:
            self._record()

    def timed(self, seconds: float) -> float:
        """Train for some seconds; returns the images a second of all trials together."""
        torch.set_num_threads(CORES)
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.step(next(self._batches))
            images += self._index_mb.numel()
            if self._graph is not None and images % (64 * self._index_mb.numel()) == 0:
                torch.cuda.synchronize()  # or the queue holds more work than a round
        if self._graph is not None:
            torch.cuda.synchronize()
        return images / (time.perf_counter() - started)

    def step(self, index_mb: Tensor) -> None:
        """Train each trial's images with these indices (M, B)."""
        self._index_mb.copy_(index_mb)
        if self._graph is None:
            self._train()
        else:
            self._graph.replay()

    def _train(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        index_n = self._index_mb.flatten()
        images = self._images.train_batch(self._images.stored(index_n), index_n, None, 0)
        images = images.unflatten(0, self._index_mb.shape)
        self.loss_m = torch.vmap(self._loss)(self._weights, self._buffers, images, self._images.labels[self._index_mb])
        self.loss_m.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _loss(self, weights: Any, buffers: Any, images: Tensor, labels: Tensor) -> Tensor:
        with autocast(self._configs[0], self._device):
            logits = torch.func.functional_call(self._model, (weights, buffers), (images,))
        return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)

    def _record(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                self._train()
            side.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            self._optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self._graph, stream=side):
                self._train()

    def _forever(self) -> Iterator[Tensor]:
        """The trials' batches, epoch after epoch; the images that a last batch lacks are left out."""
        for epoch in itertools.count():
            orders = [torch.from_numpy(epoch_order(config, epoch)) for config in self._configs]
            yield from torch.stack(orders).to(self._device).split(self._index_mb.shape[1], dim=1)[:-1]


def check(architecture: str, device: str) -> None:
    """The vectorized model's losses are those of the product's steps, trial by trial, in float64."""
    configs = [make_config(architecture, 16, seed, "float64") for seed in range(2)]
    images = device_images(configs[0], torch.device(device))
    steps = []
    for config in configs:
        model = initial_model(config).to(device)
        without_counters(model)
        optimizer = make_optimizer(config, list(model.parameters()), fused=True)
        steps.append(EagerStep(config, model, optimizer, images, None, torch.device(device)))
    vectorized = Vectorized(configs, device, recorded=False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_CHECKED_STEPS):
        index_mb = torch.randint(images.num_train, (2, 16), generator=generator).to(device)
        vectorized.step(index_mb)
        for step, index_b in zip(steps, index_mb, strict=True):
            step.sums.zero_()
            step(index_b)
        torch.testing.assert_close(vectorized.loss_m.double(), torch.stack([s.sums[0] / 16 for s in steps]))


if __name__ == "__main__":
    main()
