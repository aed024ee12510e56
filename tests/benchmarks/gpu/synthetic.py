"""Checks the prototype of a GPU engine for the two-layer CNN against the reference, and measures its speed.

`synthetic_engine.cu` trains one trial on a cluster of CL multiprocessors. Without a GPU its phases run one thread after
another on the CPU (`host.cpp`): the same arithmetic, hundreds of times slower.

Shapes: n samples, d coordinates, m filters of each class, s + 1 non-zero coordinates of a noise patch.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.benchmarks.gpu.records import say
from trainables.optimizers import make_optimizer
from trainables.two_layer_cnn.config import TwoLayerCNNConfig
from trainables.two_layer_cnn.patch_data import PatchData, patch_data
from trainables.two_layer_cnn.state import epoch_orders, initial_state

HERE = Path(__file__).resolve().parent
ORDERED_EPOCHS = 64

Array = npt.NDArray[Any]


class Variant:
    """One way to compile the kernel: filters of a block, blocks of a cluster, precision."""

    def __init__(self, filters: int, cluster: int, precision: str = "float32") -> None:
        self.filters, self.cluster, self.precision, self.threads = filters, cluster, precision, 512
        self.number = np.dtype(precision).type
        self.tolerance = 1e-10 if precision == "float64" else 1e-5
        real = "double" if precision == "float64" else "float"
        self.macros = [f"-DREAL={real}", f"-DF={filters}", f"-DCL={cluster}", f"-DTHREADS={self.threads}"]
        self.name = f"{precision}, clusters of {cluster}"
        self.trial_type = _trial_type(ctypes.c_double if precision == "float64" else ctypes.c_float)


def _trial_type(real: Any) -> type[ctypes.Structure]:
    arrays = [(name, ctypes.c_void_p) for name in ("x", "values", "support", "labels", "orders", "w", "m", "v")]
    rates = [(name, ctypes.c_double) for name in ("eta", "beta1", "beta2", "epsilon")]
    decays = [("coupled", real), ("keep", real)]
    counts = [(name, ctypes.c_int) for name in ("bias", "batch", "epochs")]

    class Trial(ctypes.Structure):
        """`struct Trial` of the kernel."""

        _fields_ = [*arrays, *rates, *decays, *counts, ("step", ctypes.c_longlong)]

    return Trial


VARIANTS = (Variant(5, 8, "float64"), Variant(20, 2), Variant(10, 4))
CHECKS = (("adam", 1e-2, 2, 5), ("adamw", 1e-2, 2, 5), ("adam", 1e-5, 3, 3))
"""Optimizer, weight decay, batch size, epochs."""


def engine(is_dry: bool) -> None:
    """Check every variant against the reference; time those in float32."""
    if is_dry:
        if shutil.which("g++") is None:
            say("engine", skipped="no C++ compiler: the kernel's source runs nowhere")
            return
        check(VARIANTS[0], _host(VARIANTS[0]), [("adam", 1e-2, 2, 1)])
        return
    for variant in VARIANTS:
        started = time.perf_counter()
        launch = _kernel(variant)
        say("engine", variant=variant.name, compiled_in_seconds=round(time.perf_counter() - started, 2))
        check(variant, launch, CHECKS)
        if variant.precision == "float32":
            speed(variant, launch)


# --- what is compared ---


def make_config(optimizer: str, weight_decay: float, batch_size: int) -> TwoLayerCNNConfig:
    """The paper's setting in float64."""
    values: dict[str, Any] = {"optimizer": optimizer, "weight_decay": weight_decay, "batch_size": batch_size}
    return TwoLayerCNNConfig(**values, seed=1, precision="float64")


def reference(config: TwoLayerCNNConfig, data: PatchData, num_epochs: int, dtype: torch.dtype = torch.float64) -> Array:
    """Weights (d, 2m) after some epochs of plain torch."""
    x_nd = torch.from_numpy(dense(config, data)).to(dtype)
    signs_n = torch.from_numpy(data.train.labels).to(dtype)
    targets_n = torch.from_numpy(data.train.labels < 0).long()
    w_dk = torch.from_numpy(np.array(initial_state(config).weights)).to(dtype).requires_grad_()
    optimizer = make_optimizer(config, [w_dk])
    for order in epoch_orders(config, 0, num_epochs):
        for batch in torch.split(torch.from_numpy(order.astype("int64")), config.batch_size):
            optimizer.zero_grad()
            products = x_nd[batch] @ w_dk, signs_n[batch, None] * w_dk[0]  # with the noise patch, and with y v
            activations = sum(z.relu().pow(config.activation_power) for z in products)
            outputs = activations.reshape(len(batch), 2, -1).sum(2)  # type: ignore[union-attr]
            torch.nn.functional.cross_entropy(outputs, targets_n[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return w_dk.detach().numpy()


def dense(config: TwoLayerCNNConfig, data: PatchData) -> Array:
    """Noise patches (n, d) of the training samples."""
    x = np.zeros((config.num_train, config.dimension))
    np.put_along_axis(x, data.train.support.astype(np.int64), data.train.values.astype(np.float64), 1)
    return x


def check(variant: Variant, launch: Launch, cases: Sequence[tuple[str, float, int, int]]) -> None:
    """One line for each case: errors beside the reference in float64, as shares of the largest weight.

    In float32 the reference rounds too: 1 - eta lambda = 1 - 5e-7, say, is off by 5% of the decay.
    """
    for optimizer, weight_decay, batch_size, num_epochs in cases:
        config = make_config(optimizer, weight_decay, batch_size)
        data = patch_data(config)
        wanted = reference(config, data, num_epochs)
        rounded = reference(config, data, num_epochs, getattr(torch, variant.precision))
        (found,) = launch(Trials(variant, config, data, num_epochs, 1))
        error, of_torch = (float(np.abs(w - wanted).max() / np.abs(wanted).max()) for w in (found, rounded))
        case = f"{optimizer}, weight decay {weight_decay:g}, B = {batch_size}"
        is_right = error < max(variant.tolerance, 2 * of_torch)
        say("engine", variant=variant.name, case=case, error=error, error_of_torch=of_torch, is_right=is_right)


class Trials:
    """Arrays of `count` trials of one config, those with odd numbers of AdamW where `is_mixed`."""

    def __init__(
        self,
        variant: Variant,
        config: TwoLayerCNNConfig,
        data: PatchData,
        num_epochs: int,
        count: int,
        is_mixed: bool = False,
    ) -> None:
        number = variant.number
        self.config, self.num_epochs, self.count, self.is_mixed = config, num_epochs, count, is_mixed
        self.shared = {
            "x": dense(config, data).astype(number),
            "values": data.train.values.astype(number),
            "support": data.train.support.astype(np.uint16),
            "labels": data.train.labels.astype(number),
            "orders": epoch_orders(config, 0, num_epochs)[:num_epochs].astype(np.uint8),
        }
        w = np.array(initial_state(config).weights).astype(number)
        self.own = {"w": w, "m": np.zeros_like(w), "v": np.zeros_like(w)}
        self.sizes = config.num_train, config.dimension, data.train.support.shape[1]

    def struct(self, variant: Variant, number: int, addresses: dict[str, int]) -> ctypes.Structure:
        """The kernel's `Trial`."""
        c = self.config
        coupled, decoupled = (c.weight_decay, 0.0) if c.optimizer.value == "adam" else (0.0, c.weight_decay)
        if self.is_mixed and number % 2:
            coupled, decoupled = 0.0, 1e-2
        keep = float(variant.number(1 - c.learning_rate * decoupled))
        return variant.trial_type(
            **addresses, eta=c.learning_rate, beta1=c.beta1, beta2=c.beta2, epsilon=c.epsilon_value,
            coupled=float(variant.number(coupled)), keep=keep, bias=int(c.bias_correction), batch=c.batch_size,
            epochs=self.num_epochs, step=0,
        )  # fmt: skip


Launch = Callable[[Trials], list[Array]]
"""Trains trials; returns their weights (d, 2m)."""


# --- on the CPU, one thread after another ---


def _host(variant: Variant) -> Launch:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "host.so"
        flags = ["-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-w"]
        command = ["g++", *flags, *variant.macros, str(HERE / "host.cpp"), "-o", str(library)]
        subprocess.run(command, check=True)
        host_train = ctypes.CDLL(str(library)).host_train

    def launch(trials: Trials) -> list[Array]:
        arrays = {name: np.ascontiguousarray(a) for name, a in (trials.shared | trials.own).items()}
        trial = trials.struct(variant, 0, {name: a.ctypes.data for name, a in arrays.items()})
        host_train(ctypes.byref(trial), *trials.sizes)
        return [arrays["w"]]

    return launch


# --- on a GPU ---


def _kernel(variant: Variant) -> Launch:
    from cuda.bindings import driver

    module = _compiled(variant)
    train, sizes = (_checked(driver.cuModuleGetFunction(module, name)) for name in (b"train", b"sizes"))
    found = torch.zeros(2, dtype=torch.int32, device="cuda")
    _start(sizes, 1, 1, 0, (found.data_ptr(),), (ctypes.c_void_p,))
    shared, trial_bytes = found.tolist()
    assert ctypes.sizeof(variant.trial_type) == trial_bytes
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _checked(driver.cuFuncSetAttribute(train, attribute, shared))

    def launch(trials: Trials) -> list[Array]:
        on_gpu = {name: _to_gpu(a) for name, a in trials.shared.items()}
        owns = [{name: _to_gpu(a) for name, a in trials.own.items()} for _ in range(trials.count)]
        structs = b"".join(
            bytes(trials.struct(variant, i, {name: t.data_ptr() for name, t in (on_gpu | own).items()}))
            for i, own in enumerate(owns)
        )
        raw = torch.frombuffer(bytearray(structs), dtype=torch.uint8).cuda()
        torch.cuda.synchronize()
        started = time.perf_counter()
        arguments = (raw.data_ptr(), *trials.sizes)
        kinds = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
        _start(train, trials.count * variant.cluster, variant.threads, shared, arguments, kinds)
        torch.cuda.synchronize()
        launch.seconds = time.perf_counter() - started  # type: ignore[attr-defined]
        return [own["w"].cpu().numpy() for own in owns]

    return launch


def _compiled(variant: Variant) -> Any:
    from cuda.bindings import driver, nvrtc

    torch.zeros(1, device="cuda")  # makes the context
    source = (HERE / "synthetic_engine.cu").read_bytes()
    program = _checked(nvrtc.nvrtcCreateProgram(source, b"synthetic_engine.cu", 0, [], []))
    fixed = ["--gpu-architecture=sm_90", "--fmad=false", "--ftz=true", "-default-device"]
    flags = [flag.encode() for flag in (*fixed, *variant.macros)]
    if int(nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode())
    machine_code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc.nvrtcGetCUBIN(program, machine_code)
    return _checked(driver.cuModuleLoadData(machine_code))


def _start(function: Any, grid: int, block: int, shared: int, values: tuple[int, ...], kinds: tuple[Any, ...]) -> None:
    from cuda.bindings import driver

    stream = torch.cuda.current_stream().cuda_stream
    _checked(driver.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, (values, kinds), 0))


def _checked(result: tuple[Any, ...]) -> Any:
    """What a CUDA call returns beside its status."""
    if int(result[0]):
        raise RuntimeError(f"a CUDA call failed: {result[0]!r}")
    return result[1] if len(result) == 2 else result[1:]


def _to_gpu(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).copy()).cuda()


def speed(variant: Variant, launch: Launch) -> None:
    """Step-trials a second of several batch sizes and crowds, and whether a crowd changes a trial's bits."""
    config = make_config("adam", 1e-5, 2)
    data = patch_data(config)
    (alone,) = launch(Trials(variant, config, data, 5, 1))
    crowd = launch(Trials(variant, config, data, 5, 150, is_mixed=True))
    say("engine", variant=variant.name, same_bits_in_any_pack=all((one == alone).all() for one in crowd[::2]))
    for batch_size, num_epochs in ((2, 20), (4, 20), (16, 40)):
        config = make_config("adam", 1e-5, batch_size)
        for count in (1, 33, 66, 132, 660):
            trials = Trials(variant, config, data, num_epochs, count, is_mixed=True)
            for _ in range(2):  # the first warms up
                launch(trials)
            elapsed = float(launch.seconds)  # type: ignore[attr-defined]
            num_steps = num_epochs * -(-config.num_train // batch_size)
            say(
                "engine", variant=variant.name, batch_size=batch_size, trials=count,
                microseconds_a_step=round(elapsed / num_steps * 1e6, 2),
                million_step_trials_a_second=round(count * num_steps / elapsed / 1e6, 2),
            )  # fmt: skip
