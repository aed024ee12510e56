"""How many threads the linear algebra of numpy and scipy uses: each brings an OpenBLAS with a pool of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import scipy.linalg  # type: ignore[import-untyped]  # noqa: F401  (its OpenBLAS has to be there to be found)
from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")

_pools = ThreadpoolController()


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with one thread for linear algebra.

    Threads of OpenBLAS wait for each other by spinning, and the cores are busy with trials:
    `tests/benchmarks/busy_cores.py` has the difference.
    """
    wrapped: Callable[P, R] = _pools.wrap(limits=1, user_api="blas")(function)
    return wrapped
