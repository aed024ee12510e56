"""Compares images a second with a plain loop's, in one run: `python tests/benchmarks/images.py [--data FOLDER]`.

The baseline is what a good user writes: torchvision's dataset in memory with transforms, a DataLoader with its best
number of workers (persistent, pinned memory on a GPU), the memory format that the device prefers, the best variant of
torch.optim.Adam, all threads. Evaluation is timed too, against the plain loop with its best batch size. Without
`--data` the images are random: they train as fast. Rounds alternate, and medians are compared.

On a GPU the baseline lets cuDNN time its algorithms, and runs with TF32 too, which ours leaves off where a trial says
float32. Then there are ours with timed algorithms, to see whether it should have them; bfloat16, packs of several
trials at once, peak memory of one, and the share of the card's measured bfloat16 matrix rate that ResNet-18 reaches at
B = 1024. `--seconds 2` ends within ten minutes there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainables.contract import Member, PackRun
from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_classifier.device import device_images
from trainables.image_classifier.evaluation import SplitEvaluation
from trainables.image_classifier.models import initial_model, memory_format
from trainables.image_classifier.workload import mega_products
from trainables.image_data.cache import CACHE_VARIABLE
from trainables.image_data.images import DATA_VARIABLE, open_images
from trainables.image_data.selection import Selection
from trainables.provenance import provenance
from trainables.registry import config_from_values, workload

ROUNDS = 3
NUM_TRAIN = 49_152 if torch.cuda.is_available() else 8192
CORES = os.cpu_count() or 1
WORKERS = sorted({0, 1, CORES // 2, CORES})


def main() -> None:
    """Print images a second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cifar10; random images without it")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = folder
        os.environ[DATA_VARIABLE] = str(arguments.data or random_images(Path(folder)))
        where = provenance("images", device, CORES, torch.cuda.get_device_name() if device == "cuda" else None)
        print(
            f"{where.device_name}, {CORES} cores, torch {torch.__version__}, torchvision {torchvision.__version__}; ",
            end="",
        )
        print(f"medians [min-max] of {ROUNDS} rounds of {arguments.seconds:g} s; images a second")
        architecture = "resnet18" if device == "cuda" else "resnet8"
        plain_rates = {}
        for batch_size in (16, 256, 4096):
            # a step of 4096 images takes seconds on a CPU
            stretched = 4 if device == "cpu" and batch_size > 1024 else 1
            config, seconds = make_config(architecture, batch_size), arguments.seconds * stretched
            plain_rates[batch_size] = compare(config, device, seconds)
            if device == "cuda":
                cudnn_benchmark(config, seconds)
        compare_evaluation(make_config(architecture, 16), device, arguments.seconds)
        if device == "cuda":
            for batch_size, num_members in itertools.product((16, 256), (1, 2, 4, 8)):
                pack(batch_size, num_members, arguments.seconds, plain_rates[batch_size])
            matrix_share(arguments.seconds)


def compare(config: ImageClassifierConfig, device: str, seconds: float) -> float:
    """One line: ours and the best plain loop, whose rate is returned."""
    runs: dict[str, Callable[[float], float]] = {"ours": ours([config], device)}
    variants = (("fused", False), ("fused", True)) if device == "cuda" else (("foreach", False), ("fused", False))
    for workers, (variant, tf32) in itertools.product(WORKERS, variants):
        name = f"{workers} workers, {variant}{', TF32' if tf32 else ''}"
        runs[name] = plain(config, device, workers, variant, tf32)
    return print_ratio(f"{config.architecture}, B={config.batch_size}, {config.precision}", runs, seconds)


def compare_evaluation(config: ImageClassifierConfig, device: str, seconds: float) -> None:
    """One line: evaluation of the training images, ours and the best plain loop."""
    runs: dict[str, Callable[[float], float]] = {"ours": our_evaluation(config, device)}
    for batch_size, workers in itertools.product((64, 256, 1024), WORKERS):
        runs[f"{workers} workers, {batch_size} at once"] = plain_evaluation(config, device, batch_size, workers)
    print_ratio(f"{config.architecture}, evaluation, {config.precision}", runs, seconds)


def print_ratio(what: str, runs: dict[str, Callable[[float], float]], seconds: float) -> float:
    """One line: `runs["ours"]` against the best of the others, in rounds that alternate; returns that one's rate."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rates[name].append(run(seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max((name for name in medians if name != "ours"), key=medians.__getitem__)
    print(
        f"{what}: ours {spread(rates['ours'])}, "
        f"plain loop {spread(rates[best])} ({best}): {medians['ours'] / medians[best]:.2f}x",
        flush=True,
    )
    return medians[best]


def spread(values: list[float]) -> str:
    """Median [min-max]."""
    return f"{statistics.median(values):.0f} [{min(values):.0f}-{max(values):.0f}]"


def make_config(architecture: str, batch_size: int, seed: int = 0, precision: str = "float32") -> ImageClassifierConfig:
    """A trial that does not end while it is timed."""
    config = config_from_values(
        {
            "workload": "image_classifier",
            "dataset": "cifar10",
            "architecture": architecture,
            "optimizer": "adam",
            "weight_decay": 5e-4,
            "batch_size": batch_size,
            "num_epochs": 10**6,
            "seed": seed,
            "num_train": NUM_TRAIN,
            "num_test": 100,
            "precision": precision,
        }
    )
    assert isinstance(config, ImageClassifierConfig)
    return config


def ours(configs: list[ImageClassifierConfig], device: str, *, benchmark: bool = False) -> Callable[[float], float]:
    """A pack of these trials; images a second of all of them, a small test set each epoch included."""
    set_cudnn(tf32=False, benchmark=benchmark)  # before steps are recorded
    members = [Member(config, config.num_epochs) for config in configs]
    run = workload("image_classifier").open(members, device, num_threads=CORES)
    begin(run)

    def timed(seconds: float) -> float:
        set_cudnn(tf32=False, benchmark=benchmark)
        return images_a_second(run, seconds)

    return timed


def begin(run: PackRun) -> None:
    """Advance a pack until each member that has room has taken a step: initial weights are measured first."""
    for _ in range(3):  # the first member begins alone, then as many as fit beside it
        run.advance(1.0)
    while not all(int(state["step"]) for state in run.states().values()):
        run.advance(1.0)


def images_a_second(run: PackRun, seconds: float) -> float:
    """Of all members of a pack, which trains for so long."""
    before, started = _images_done(run), time.perf_counter()
    while time.perf_counter() - started < seconds:
        run.advance(seconds - (time.perf_counter() - started))
    elapsed = time.perf_counter() - started
    return (_images_done(run) - before) / elapsed


def _images_done(run: PackRun) -> int:
    return sum(int(s["epoch"]) * NUM_TRAIN + int(s["position"]) for s in run.states().values())


def set_cudnn(*, tf32: bool, benchmark: bool) -> None:
    """Whether products of float32 numbers may be rounded to 10 bits first, and whether cuDNN times its algorithms."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark


class InMemory(Dataset[tuple[torch.Tensor, int]]):
    """What torchvision's CIFAR10 does: an array in memory, a PIL image and transforms for each item."""

    def __init__(self, config: ImageClassifierConfig) -> None:
        selection = Selection("cifar10", NUM_TRAIN, 100)
        data = open_images(selection, config.dataset_digest)
        self.images, self.labels = np.array(data.train_images), np.array(data.train_labels)
        held = data.manifest
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(held.mean, held.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def plain(
    config: ImageClassifierConfig, device: str, workers: int, variant: str, tf32: bool
) -> Callable[[float], float]:
    """The plain loop; its DataLoader's workers live as long as it."""
    layout = torch.channels_last if tf32 else memory_format(config, torch.device(device))
    model: nn.Module = initial_model(config).to(device).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=5e-4, **{variant: True})
    batches = forever(loader(config, device, config.batch_size, workers))
    model.train()

    def timed(seconds: float) -> float:
        torch.set_num_threads(CORES)
        set_cudnn(tf32=tf32, benchmark=True)
        images, started = 0, 0.0
        while not images or time.perf_counter() - started < seconds:
            x, y = next(batches)
            started = started or time.perf_counter()  # a loader's start is not its rate
            x = x.to(device, non_blocking=True, memory_format=layout)
            y = y.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            images += len(y)
        if device == "cuda":
            torch.cuda.synchronize()
        return images / (time.perf_counter() - started)

    return timed


def our_evaluation(config: ImageClassifierConfig, device: str) -> Callable[[float], float]:
    """The product's, of the initial weights."""
    on_device = torch.device(device)
    layout = memory_format(config, on_device)
    model: nn.Module = initial_model(config).to(device).to(memory_format=layout)  # type: ignore[call-overload]
    evaluation = SplitEvaluation(config, model, device_images(config, on_device), test=False)

    def timed(seconds: float) -> float:
        torch.set_num_threads(CORES)
        set_cudnn(tf32=False, benchmark=False)
        images, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            evaluation.advance(1)
            if evaluation.is_done:
                images += evaluation.position
                evaluation.restart()
        images += evaluation.position
        float(evaluation.sums[0])  # waits for the device
        elapsed = time.perf_counter() - started
        evaluation.restart()
        return images / elapsed

    return timed


def plain_evaluation(
    config: ImageClassifierConfig, device: str, batch_size: int, workers: int
) -> Callable[[float], float]:
    """Loss and top-1 error batch by batch, as anyone writes it."""
    layout = memory_format(config, torch.device(device))
    model: nn.Module = initial_model(config).to(device).to(memory_format=layout)  # type: ignore[call-overload]
    batches = forever(loader(config, device, batch_size, workers))
    model.eval()

    @torch.inference_mode()
    def timed(seconds: float) -> float:
        torch.set_num_threads(CORES)
        set_cudnn(tf32=False, benchmark=True)
        images, started = 0, 0.0
        sums = torch.zeros(2, device=device)
        while not images or time.perf_counter() - started < seconds:
            x, y = next(batches)
            started = started or time.perf_counter()
            x = x.to(device, non_blocking=True, memory_format=layout)
            y = y.to(device, non_blocking=True)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y, reduction="sum")
            sums += torch.stack([loss, (logits.argmax(1) != y).sum()])
            images += len(y)
        float(sums[0])
        return images / (time.perf_counter() - started)

    return timed


def loader(config: ImageClassifierConfig, device: str, batch_size: int, workers: int) -> DataLoader[Any]:
    """A DataLoader as a good user sets it."""
    return DataLoader(
        InMemory(config),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )


def forever(batches: DataLoader[Any]) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def cudnn_benchmark(config: ImageClassifierConfig, seconds: float) -> None:
    """One line: ours where cuDNN times its algorithms before a step is recorded."""
    run = ours([config], "cuda", benchmark=True)
    rates = [run(seconds) for _ in range(ROUNDS)]
    print(f"{config.architecture}, B={config.batch_size}, {config.precision}, cudnn.benchmark: {spread(rates)}")


def pack(batch_size: int, num_members: int, seconds: float, plain_rate: float) -> None:
    """Two lines: several trials at once on one GPU, beside the plain loop of one float32 trial."""
    for precision in ("float32", "bfloat16"):
        torch.cuda.empty_cache()
        configs = [make_config("resnet18", batch_size, seed, precision) for seed in range(num_members)]
        run = ours(configs, "cuda")
        rates = [run(seconds) for _ in range(ROUNDS)]
        gigabytes = torch.cuda.max_memory_reserved() / 2**30 / num_members
        print(
            f"resnet18, B={batch_size}, {precision}, pack of {num_members}: {spread(rates)}, "
            f"{statistics.median(rates) / plain_rate:.2f}x, {gigabytes:.2f} GiB each"
        )
        del run  # or the next pack shares the memory with it


def matrix_share(seconds: float) -> None:
    """One line: ResNet-18 at B = 1024 in bfloat16 against the card's measured matrix rate."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    matrix_rate = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    config = make_config("resnet18", 1024, precision="bfloat16")
    rate = ours([config], "cuda")(seconds)
    reached = rate * 3 * 2 * mega_products(config) * 1e6
    print(f"resnet18, B=1024, bfloat16: {rate:.0f}, {reached / 1e12:.0f} of {matrix_rate / 1e12:.0f} TFLOP/s measured")


def random_images(folder: Path) -> Path:
    """A data folder with as many random images as are timed, in class folders' place a Parquet file each split."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    for split, num in (("train", NUM_TRAIN), ("test", 100)):
        cells = []
        for pixels in rng.integers(0, 256, (num, 32, 32, 3), dtype=np.uint8):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": ""})
        place = folder / "data" / "cifar10"
        place.mkdir(parents=True, exist_ok=True)
        table = pa.table({"img": cells, "label": [i % 10 for i in range(num)]})
        pq.write_table(table, place / f"{split}.parquet")
    return folder / "data"


if __name__ == "__main__":
    main()
