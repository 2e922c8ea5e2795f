"""The prototype network as a graph of OpenVINO: the same function, without torch.

The graph is built from the tensors of the bundle, operation by operation, rather than
converted from the network in torch: that takes a tenth of a second with its compilation, so
that nothing has to be converted beforehand, cached or checked, and torch is not imported.
The tests hold both to the same numbers.

What is done once, in float64, rather than for every recording: batch norm is folded into
the convolution before it; a 2D trunk becomes the 1D trunk of the same function (its stem
reduces the leads to one row, after which only the middle row of a kernel meets anything but
padding); prototypes are divided by their norm.

Everything is computed in float32 and on as many threads as ``OMP_NUM_THREADS`` says, as in
torch; the numbers do not depend on it.
"""

import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from phenokit.networks.checkpoint import check_shapes
from phenokit.networks.prototype_config import (
    DROPOUT_POSITION,
    SAMPLES,
    STRIDE,
    Forward,
    Pooling,
    PrototypeConfig,
    TrunkConfig,
    ceiling,
)
from phenokit.recording import LEADS
from phenokit.statements import Branch

# The mere import of openvino reports it to a server of statistics, unless the package that
# does so cannot be imported: then openvino takes a stub in its place.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

import openvino  # noqa: E402
from openvino import Node, opset1  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

BATCH_NORM_EPSILON = 1e-5
"""What torch adds to a variance."""

_KERNELS = {"resnet1d": (3, 3), "resnet2d": (3, 3), "bounded": (3, 1)}
"""Of the two convolutions of the first block of a stage."""

_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # its own choice is bfloat16 where there is any
    "EXECUTION_MODE_HINT": "ACCURACY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # several processes would all sit on the first core
}


@dataclass(frozen=True, eq=False)
class OpenVINOForward:
    """The forward pass of a compiled graph; it may be called from any thread.

    Attributes
    ----------
    engine
        Name and version of what computes.
    """

    request: openvino.InferRequest
    pooling: Pooling
    engine: str = field(default_factory=lambda: f"openvino {version('openvino')}")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, signal: Float32[np.ndarray, "batch lead sample"]) -> Forward:
        """Similarities, best windows and features of prepared ECGs."""
        with self._lock:
            outputs = self.request.infer([signal], share_inputs=True)
            *windows, features = [outputs[k].copy() for k in range(len(outputs))]
        return Forward(
            np.concatenate([_pool_windows(w, self.pooling) for w in windows], axis=1),
            np.concatenate([w.argmax(axis=2) for w in windows], axis=1),
            features,
        )


def export(
    config: PrototypeConfig, arrays: Mapping[str, np.ndarray], *, batch: int
) -> OpenVINOForward:
    """The network with these weights, compiled for the CPU.

    Parameters
    ----------
    arrays
        Weights by name, as a bundle holds them.
    batch
        Recordings in every forward pass.

    Raises
    ------
    BundleError
        ``E_WEIGHTS`` naming the tensor that is missing, unknown or of another shape.
    """
    compiled = openvino.Core().compile_model(
        _graph(config, _Tensors(arrays), batch),
        "CPU",
        _SETTINGS | {"INFERENCE_NUM_THREADS": _n_threads()},
    )
    return OpenVINOForward(compiled.create_infer_request(), config.pooling)


def _n_threads() -> int:
    """As ``OMP_NUM_THREADS`` says; 0, all that there are, where it says nothing."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdecimal() else 0


def _pool_windows(
    similarity: Float32[np.ndarray, "batch prototype window"], pooling: Pooling
) -> Float32[np.ndarray, "batch prototype"]:
    """As `phenokit.networks.prototype.pool_windows`."""
    if pooling == "max":
        return similarity.max(axis=2)
    if pooling == "mean":
        return similarity.mean(axis=2)
    return np.sort(similarity, axis=2)[:, :, -5:].mean(axis=2)


class _Tensors:
    """The tensors of a bundle, each taken once and with the shape that the network has."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._left = dict(arrays)

    def take(self, name: str, *shape: int) -> Float[np.ndarray, "..."]:
        found = {name: self._left[name].shape} if name in self._left else {}
        check_shapes(found, {name: shape})
        return self._left.pop(name).astype(np.float64)

    def check_all_taken(self) -> None:
        check_shapes({name: array.shape for name, array in self._left.items()}, {})


def _graph(config: PrototypeConfig, tensors: _Tensors, batch: int) -> openvino.Model:
    signal = ops.parameter([batch, len(LEADS), SAMPLES], np.float32, name="signal")
    trunks = {
        key: _trunk(signal, trunk, tensors, f"trunks.{key}")
        for key, trunk in config.trunks.items()
    }
    windows, features = [], []
    for name, branch in config.branches.items():
        width = config.trunks[branch.trunk].widths[-1]
        x, width = _latent(trunks[branch.trunk], width, name, config, tensors)
        windows.append(_similarity(x, width, name, config, tensors))
        features.append(_normalised_mean(x))
    n_prototypes = sum(sum(branch.n_prototypes) for branch in config.branches.values())
    tensors.take("fusion.weight", len(config.labels), n_prototypes)  # applied by `pipeline`
    tensors.take("fusion.bias", len(config.labels))
    tensors.check_all_taken()
    outputs = [*windows, ops.concat(features, 1)]
    return openvino.Model(outputs, [signal], "phenokit")  # pyright: ignore[reportGeneralTypeIssues]


# --- trunks: (batch, lead, sample) -> (batch, feature, time) ---------------------------


def _trunk(signal: Node, config: TrunkConfig, tensors: _Tensors, name: str) -> Node:
    is_2d, is_bounded = config.kind == "resnet2d", config.kind == "bounded"
    width = config.widths[0]
    lead_shape = (1, len(LEADS)) if is_2d else (len(LEADS),)
    weight = tensors.take(f"{name}.stem.0.weight", width, *lead_shape, 7)
    weight = weight.reshape(width, len(LEADS), 7)
    weight, bias = _folded(weight, f"{name}.stem.1", tensors)
    if is_bounded:  # shifted by half a latent step: see `BoundedTrunk`
        signal = ops.slice(signal, [STRIDE // 2], [SAMPLES], [1], [2])
        x = ops.relu(_convolve(signal, weight, bias, stride=2, pads=(3, 3 + STRIDE // 2)))
    else:
        x = ops.relu(_convolve(signal, weight, bias, stride=2, pads=(3, 3)))
        x = opset1.max_pool(x, [2], [1], [1], [3])  # later ones also give indices
    inputs = width
    for stage, outputs in enumerate(config.widths):
        for second in (0, 1):
            number = 2 * stage + second
            if is_2d and number >= DROPOUT_POSITION:
                number += 1
            x = _block(
                x, f"{name}.stages.{number}", inputs, outputs, tensors,
                stride=1 if second or (stage == 0 and not is_bounded) else 2,
                kernels=(1, 1) if second and is_bounded else _KERNELS[config.kind],
                is_2d=is_2d,
            )  # fmt: skip
            inputs = outputs
    return x


def _block(
    x: Node,
    name: str,
    inputs: int,
    outputs: int,
    tensors: _Tensors,
    *,
    stride: int = 1,
    kernels: tuple[int, int] = (3, 3),
    is_2d: bool = False,
) -> Node:
    """Two convolutions and a shortcut."""

    def convolve(
        x: Node, convolution: str, norm: str, inputs: int, kernel: int, stride: int
    ) -> Node:
        rows = (kernel,) if is_2d else ()
        weight = tensors.take(
            f"{name}.{convolution}.weight", outputs, inputs, *rows, kernel
        )
        if is_2d:
            weight = weight[:, :, kernel // 2]
        weight, bias = _folded(weight, f"{name}.{norm}", tensors)
        return _convolve(x, weight, bias, stride=stride, pads=(kernel // 2, kernel // 2))

    y = ops.relu(convolve(x, "conv1", "bn1", inputs, kernels[0], stride))
    y = convolve(y, "conv2", "bn2", outputs, kernels[1], 1)
    if stride != 1 or inputs != outputs:
        x = convolve(x, "shortcut.0", "shortcut.1", inputs, 1, stride)
    return ops.relu(ops.add(y, x))


def _folded(
    weight: Float[np.ndarray, "output input kernel"], norm: str, tensors: _Tensors
) -> tuple[Float[np.ndarray, "output input kernel"], Float[np.ndarray, " output"]]:
    """Weight and bias of a convolution and the batch norm that follows it."""
    gain, shift, mean, variance = (
        tensors.take(f"{norm}.{part}", len(weight))
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain /= np.sqrt(variance + BATCH_NORM_EPSILON)
    return weight * gain[:, None, None], shift - mean * gain


def _convolve(
    x: Node,
    weight: Float[np.ndarray, "output input kernel"],
    bias: Float[np.ndarray, " output"] | None = None,
    *,
    stride: int = 1,
    pads: tuple[int, int] = (0, 0),
) -> Node:
    y = ops.convolution(x, _constant(weight), [stride], [pads[0]], [pads[1]], [1])
    return y if bias is None else ops.add(y, _constant(bias[:, None]))


def _constant(value: Any) -> Node:  # noqa: ANN401 - an array or a number
    return ops.constant(np.asarray(value, dtype=np.float32))


# --- features and similarities ----------------------------------------------------------


def _latent(
    x: Node, width: int, name: Branch, config: PrototypeConfig, tensors: _Tensors
) -> tuple[Node, int]:
    """Latent features of a branch, and how many there are."""
    branch = config.branches[name]
    for number in range(branch.context):
        x = _block(x, f"contexts.{name}.{number}", width, width, tensors)
    if branch.window is None:
        mean = ops.reduce_mean(x, [2], keep_dims=True)
        if branch.time_pooling == "mean_max":
            x = ops.concat([mean, ops.reduce_max(x, [2], keep_dims=True)], 1)
            width *= 2
        else:
            x = mean
    if config.features is None:
        return x, width
    for layer, inputs, function in (
        (0, width, ops.relu),
        (2, config.features, ops.sigmoid),
    ):
        weight = tensors.take(f"add_ons.{name}.{layer}.weight", config.features, inputs, 1)
        bias = tensors.take(f"add_ons.{name}.{layer}.bias", config.features)
        x = function(_convolve(x, weight, bias))
    return x, config.features


def _similarity(
    x: Node, width: int, name: Branch, config: PrototypeConfig, tensors: _Tensors
) -> Node:
    """As `phenokit.networks.prototype.window_similarity`."""
    branch = config.branches[name]
    count, steps = sum(branch.n_prototypes), branch.window or 1
    tensors.take(f"classifiers.{name}.weight", len(branch.labels), count)  # of the training
    prototypes = tensors.take(f"prototypes.{name}", count, width, steps)
    is_reference = config.similarity == "reference"
    floor = 1e-4 if is_reference and steps > 1 else 1e-12
    scale = ceiling(width, steps) if is_reference else 1.0
    norm = np.sqrt(np.square(prototypes).sum(axis=(1, 2), keepdims=True) + floor)
    energy = ops.reduce_sum(ops.multiply(x, x), [1], keep_dims=True)
    if steps > 1:
        energy = _convolve(energy, np.ones((1, 1, steps)))
    return ops.divide(
        _convolve(x, prototypes * (scale / norm)),
        ops.sqrt(ops.add(energy, _constant(floor))),
    )


def _normalised_mean(x: Node) -> Node:
    mean = ops.reduce_mean(x, [2], keep_dims=False)
    energy = ops.reduce_sum(ops.multiply(mean, mean), [1], keep_dims=True)
    return ops.divide(mean, ops.maximum(ops.sqrt(energy), _constant(1e-12)))
