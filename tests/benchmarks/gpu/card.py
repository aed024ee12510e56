"""Measures the card itself: its name and versions, and the highest rates that it reaches."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from tests.benchmarks.gpu.records import say


def environment(is_dry: bool) -> None:
    """Name the card, its driver and the versions."""
    versions = {"torch": torch.__version__, "python": platform.python_version(), "numpy": np.__version__}
    if is_dry:
        say("environment", card="none (dry run)", cores=os.cpu_count(), **versions)
        return
    card = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    say(
        "environment",
        card=card.name,
        multiprocessors=card.multi_processor_count,
        gib=round(card.total_memory / 2**30, 1),
        driver=subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        cores=os.cpu_count(),
        **versions,
    )


def ceilings(is_dry: bool) -> None:
    """Rates of a copy within the card's memory, of matrix products, and of the nodes of a recorded graph."""
    if is_dry:
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.randn(2**30, device="cuda")
    b = torch.empty_like(a)
    copied = 2 * a.nbytes / seconds(partial(b.copy_, a), 10)
    say("ceilings", what="copy, read and written", tb_a_second=copied / 1e12)
    del a, b
    size = 8192
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(size, size, device="cuda", dtype=dtype)
        rate = 2 * size**3 / seconds(partial(torch.matmul, x, x), 10)
        say("ceilings", what=f"matrix product, {dtype}".replace("torch.", ""), tflop_a_second=rate / 1e12)
    say("ceilings", what="node of a recorded graph", microseconds=_seconds_a_node() * 1e6)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Time of one call on the device, after three that warm it up."""
    for _ in range(3):
        function()
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()  # type: ignore[no-untyped-call]
    for _ in range(repeats):
        function()
    stop.record()  # type: ignore[no-untyped-call]
    stop.synchronize()  # type: ignore[no-untyped-call]
    return float(start.elapsed_time(stop)) / repeats * 1e-3  # type: ignore[no-untyped-call]


def _seconds_a_node(num_nodes: int = 300) -> float:
    x = torch.zeros(1024, device="cuda")
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x.add_(1)
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(num_nodes):
                x.add_(1)
        return seconds(graph.replay, 50) / num_nodes
