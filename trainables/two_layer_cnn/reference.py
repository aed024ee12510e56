"""The reference engine: Definition 3.2 and equations (3.1)-(3.6) in plain torch, to be read beside the paper.

Shapes: B samples of a batch, 2 patches p, d coordinates, classes j = +1, -1 (index 0, 1), m filters r of each class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.machine.torch_threads import torch_threads
from trainables.optimizers import check_state, make_optimizer, set_moments
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import PatchData, PatchSamples
from trainables.two_layer_cnn.state import Floats, Probe, TrainState, epoch_orders
from trainables.two_layer_cnn.subnormals import flushed_subnormals

_PROBE_CHUNK = 1000


def network_outputs(weights_jrd: Tensor, x_bpd: Tensor, q: int) -> Tensor:
    """F_j(W, x) = sum_r [act(<w_jr, x1>) + act(<w_jr, x2>)], act(z) = max(0, z)^q; shape (B, 2)."""
    return torch.einsum("bpd,jrd->bjpr", x_bpd, weights_jrd).relu().pow(q).sum(dim=(2, 3))


class ReferenceEngine:
    """The training loop as a plain torch user would write it."""

    name = "reference"

    def __init__(self, config: TwoLayerCNNConfig, data: PatchData) -> None:
        self._config = config
        self._dtype = getattr(torch, config.precision.value)
        self._data = data
        self._x_npd = self._dense(data.train)
        self._targets_n = torch.from_numpy(data.train.labels < 0).long()  # class +1 is output 0

    @torch_threads(1)
    @flushed_subnormals()
    def train(self, state: TrainState, until_epoch: int) -> None:
        """Advance `state` in place to `until_epoch`."""
        config = self._config
        weights_jrd = self._filters(state.weights).requires_grad_()
        optimizer = make_optimizer(config, [weights_jrd])
        moments = self._filters(state.first_moment), self._filters(state.second_moment)
        set_moments(optimizer, weights_jrd, torch.tensor(float(state.step)), *moments)
        while state.epoch < until_epoch:
            for order in epoch_orders(config, state.epoch, until_epoch):
                for batch in torch.split(torch.from_numpy(order.astype("int64")), config.batch_size):
                    optimizer.zero_grad()
                    outputs = network_outputs(weights_jrd, self._x_npd[batch], config.activation_power)
                    cross_entropy(outputs, self._targets_n[batch]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    state.step += 1
                state.epoch += 1
        check_state(optimizer, config, dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=True)))
        state.weights = self._rows(weights_jrd)
        state.first_moment, state.second_moment = map(self._rows, moments)

    @torch_threads(1)
    @flushed_subnormals()
    def probe(self, state: TrainState) -> Probe:
        """Outputs on the training and the test set, and noise products on the training set."""
        weights_jrd = self._filters(state.weights)
        noise = torch.from_numpy(self._data.train.values).to(self._dtype)[:, :, None]
        rows = weights_jrd.reshape(-1, weights_jrd.shape[-1]).T[
            torch.from_numpy(self._data.train.support.astype("int64"))
        ]
        return Probe(
            self._margins(weights_jrd, self._data.train),
            self._margins(weights_jrd, self._data.test),
            (noise * rows).sum(dim=1).numpy(),
        )

    def moments(self, state: TrainState) -> tuple[Floats, Floats]:
        """First and second moment (d, 2m) of equations (3.4) and (3.5), which this engine's states hold unscaled."""
        return state.first_moment, state.second_moment

    def _margins(self, weights_jrd: Tensor, samples: PatchSamples) -> Floats:
        chunks = [
            network_outputs(
                weights_jrd, self._dense(samples.part(start, start + _PROBE_CHUNK)), self._config.activation_power
            )
            for start in range(0, len(samples.labels), _PROBE_CHUNK)
        ]
        outputs = torch.cat(chunks)
        margins: Floats = (outputs[:, 0] - outputs[:, 1]).numpy()
        return margins

    def _dense(self, samples: PatchSamples) -> Tensor:
        return torch.from_numpy(samples.dense(self._config.dimension)).to(self._dtype)

    def _filters(self, rows: Floats) -> Tensor:
        return torch.from_numpy(rows.T.reshape(2, self._config.num_filters, -1).copy())

    def _rows(self, filters_jrd: Tensor) -> Floats:
        rows: Floats = filters_jrd.detach().reshape(-1, filters_jrd.shape[-1]).T.contiguous().numpy()
        return rows
