"""Limits the threads of linear algebra in numpy and scipy, each of which has its own OpenBLAS with a thread pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import scipy.linalg  # type: ignore[import-untyped]  # noqa: F401  (loads its OpenBLAS, so that it is found)
from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")

_pools = ThreadpoolController()


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that runs `function` with one thread for linear algebra.

    OpenBLAS's threads wait for each other by spinning, which is slow while trials keep the cores busy;
    `tests/benchmarks/busy_cores.py` measures how slow.
    """
    wrapped: Callable[P, R] = _pools.wrap(limits=1, user_api="blas")(function)
    return wrapped
