"""Compares full float32 runs of the fused engine with the reference: `python tests/benchmarks/agreement.py`.

Two engines round differently, and near the transition training amplifies a rounding error; the table shows by how much
the results differ. They contradict each other only if outcomes differ where seeds agree.
"""

from __future__ import annotations

from trainables.contract import Member
from trainables.provenance import provenance
from trainables.registry import workload
from trainables.result import TrialResult
from trainables.two_layer_cnn.config import TwoLayerCNNConfig, TwoLayerCNNTracePoint

CELLS = ((20, 1000), (100, 10_000), (200, 10_000))
SEEDS = (0, 1)
DECAYS = {"adam": 1e-5, "adamw": 1e-2}


def main() -> None:
    """Print both engines' results and the largest difference along the trace."""
    where = provenance("both")
    print(f"{where.device_name}, torch {where.torch_version}, numba {where.numba_version}, {len(SEEDS)} seeds, float32")
    print(
        "optimizer    B      T seed  outcome (fused / reference)   test error (fused / reference)  largest on the trace"
    )
    for batch_size, num_epochs in CELLS:
        for optimizer, decay in DECAYS.items():
            for seed in SEEDS:
                config = TwoLayerCNNConfig(
                    optimizer=optimizer, weight_decay=decay, batch_size=batch_size, num_epochs=num_epochs, seed=seed
                )
                fused, reference = run(config, "fused-cpu"), run(config, "reference")
                pairs = zip(fused.trace, reference.trace, strict=True)
                apart = max(abs(a.test_error - b.test_error) for a, b in pairs)
                print(
                    f"{optimizer:<9} {batch_size:>4} {num_epochs:>6} {seed:>4}"
                    f"  {fused.outcome:>10} / {reference.outcome:<10}"
                    f"        {last(fused).test_error:.4f} / {last(reference).test_error:.4f}"
                    f"                  {apart:.4f}",
                    flush=True,
                )


def run(config: TwoLayerCNNConfig, engine: str) -> TrialResult:
    """Train one trial on one engine."""
    pack = workload(config.workload).open([Member(config, config.num_epochs)], engine=engine)
    while True:
        for report in pack.advance(60.0):
            if report.result is not None:
                return report.result


def last(result: TrialResult) -> TwoLayerCNNTracePoint:
    """The last trace point."""
    point = result.trace[-1]
    assert isinstance(point, TwoLayerCNNTracePoint)
    return point


if __name__ == "__main__":
    main()
