"""Times a step of the fused engine against eager torch.optim, in one run: `python tests/benchmarks/engine.py`.

The baseline is the reference network with torch.optim.Adam, at the best of its for-loop, foreach and fused variants and
of one and two threads. Both train the same trial on the same batches; rounds alternate, and medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numba
import torch
from torch.nn.functional import cross_entropy

from trainables.provenance import provenance
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.fused import FusedEngine
from trainables.two_layer_cnn.patch_data import patch_data
from trainables.two_layer_cnn.reference import network_outputs
from trainables.two_layer_cnn.state import epoch_orders, initial_state

ROUNDS = 7
SECONDS_PER_ROUND = 0.4
VARIANTS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def main() -> None:
    """Print microseconds a step and the ratios."""
    where = provenance("fused-cpu")
    print(
        f"{where.device_name}, torch {torch.__version__}, numba {numba.__version__}, {ROUNDS} rounds, medians [min-max]"
    )
    print(f"{'B':>4} {'fused-cpu us/step':>22} {'best eager us/step':>22}  {'eager variant':<18} ratio")
    for batch_size in (2, 20, 200):
        config = TwoLayerCNNConfig(optimizer="adam", weight_decay=1e-5, batch_size=batch_size, seed=0)
        runs: dict[str, Callable[[], float]] = {"fused-cpu": fused_round(config)}
        for threads in (1, 2):
            runs |= {f"{name}, {threads} thread": eager_round(config, kw, threads) for name, kw in VARIANTS.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                times[name].append(run() * 1e6)
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = min((name for name in medians if name != "fused-cpu"), key=medians.__getitem__)
        ours, theirs = spread(times["fused-cpu"]), spread(times[best])
        print(f"{batch_size:>4} {ours:>22} {theirs:>22}  {best:<18} {medians[best] / medians['fused-cpu']:.1f}x")


def spread(values: list[float]) -> str:
    """Median [min-max]."""
    return f"{statistics.median(values):.1f} [{min(values):.1f}-{max(values):.1f}]"


def fused_round(config: TwoLayerCNNConfig) -> Callable[[], float]:
    """A round of the fused engine; returns seconds a step."""
    engine, state = FusedEngine(config, patch_data(config)), initial_state(config)
    engine.train(state, 1)  # compiles

    def run() -> float:
        first_step, started = state.step, time.perf_counter()
        while time.perf_counter() - started < SECONDS_PER_ROUND:
            engine.train(state, state.epoch + max(1, 1000 // config.steps_per_epoch))
        return (time.perf_counter() - started) / (state.step - first_step)

    return run


def eager_round(config: TwoLayerCNNConfig, variant: dict[str, bool], threads: int) -> Callable[[], float]:
    """A round of torch.optim.Adam; returns seconds a step."""
    data = patch_data(config)
    x_npd = torch.from_numpy(data.train.dense(config.dimension)).float()
    targets_n = torch.from_numpy(data.train.labels < 0).long()
    filters = initial_state(config).weights.T.reshape(2, config.num_filters, -1)
    weights = torch.from_numpy(filters.copy()).requires_grad_()
    optimizer = torch.optim.Adam(
        [weights],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        **variant,  # type: ignore[arg-type]
    )
    batches = torch.from_numpy(epoch_orders(config, 0, 1)[0].astype("int64")).split(config.batch_size)  # type: ignore[no-untyped-call]

    def run() -> float:
        torch.set_num_threads(threads)
        steps, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS_PER_ROUND:
            for batch in batches:
                optimizer.zero_grad()
                outputs = network_outputs(weights, x_npd[batch], config.activation_power)
                cross_entropy(outputs, targets_n[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            steps += len(batches)
        return (time.perf_counter() - started) / steps

    return run


if __name__ == "__main__":
    main()
