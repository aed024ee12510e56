"""Times image trials on one device: rates of packs through the product's own steps, and the kernels of one step."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tests.benchmarks import images
from tests.benchmarks.gpu.records import say
from trainables.image_data.cache import CACHE_VARIABLE
from trainables.image_data.images import DATA_VARIABLE

SECONDS = 2.0
ROUNDS = 2
NUM_TRAIN, NUM_TRAIN_DRY = 16_384, 256


def prepare(folder: Path, is_dry: bool) -> None:
    """Make random images and decode them, for all parts."""
    use(folder, is_dry)
    images.random_images(folder)
    images.make_config("resnet8", 1)


def use(folder: Path, is_dry: bool) -> None:
    """Have the product find the images that `prepare` made, and leave decoded ones beside them."""
    images.NUM_TRAIN = NUM_TRAIN_DRY if is_dry else NUM_TRAIN
    os.environ[CACHE_VARIABLE], os.environ[DATA_VARIABLE] = str(folder), str(folder / "data")


def rate(batch_size: int, precision: str, num_members: int, is_dry: bool) -> None:
    """Images a second of a pack, all members together."""
    architecture, device = ("resnet8", "cpu") if is_dry else ("resnet18", "cuda")
    configs = [images.make_config(architecture, batch_size, seed, precision) for seed in range(num_members)]
    run = images.ours(configs, device)
    rates = [run(0.2 if is_dry else SECONDS) for _ in range(ROUNDS)]
    products = 3 * 2 * images.mega_products(configs[0]) * 1e6  # forward and two backward passes, multiply and add
    say(
        "images",
        architecture=architecture,
        batch_size=batch_size,
        precision=precision,
        members=num_members,
        images_a_second=[round(one) for one in rates],
        tflop_a_second=round(max(rates) * products / 1e12, 1),
        gib_a_member=None if is_dry else round(torch.cuda.max_memory_reserved() / 2**30 / num_members, 2),
        connections=os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS"),
    )


def kernels(batch_size: int, precision: str, is_dry: bool) -> None:
    """The kernels that replayed steps spend their time in."""
    from torch.profiler import ProfilerActivity, profile

    architecture, device = ("resnet8", "cpu") if is_dry else ("resnet18", "cuda")
    run = images.ours([images.make_config(architecture, batch_size, 0, precision)], device)
    run(0.1 if is_dry else 1.0)
    with profile(activities=[ProfilerActivity.CPU if is_dry else ProfilerActivity.CUDA]) as profiled:
        run(0.05)

    def time_of(row: object) -> float:
        return float(getattr(row, "self_cpu_time_total" if is_dry else "self_device_time_total"))

    averages = [row for row in profiled.key_averages() if "Memcpy DtoH" not in row.key]  # the benchmark reads states
    rows = sorted(averages, key=time_of, reverse=True)
    total = sum(time_of(row) for row in rows)
    top = [[row.key[:90], row.count, round(time_of(row) / total, 3)] for row in rows[:25]]
    say("kernels", batch_size=batch_size, precision=precision, launches=sum(row.count for row in rows), top=top)
