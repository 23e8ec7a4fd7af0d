"""Correction of what quantization shifts: per output channel, fitted to the float network through data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from qir.backends.execution.affine_fit import bias_add, correctable, fit_affine
from qir.errors import PassError
from qir.graph import Node
from qir.module import Module
from qir.passes.analysis.constants import set_constant
from qir.passes.analysis.quantized_layers import QuantizedLayer, quantized_layers
from qir.passes.data.samples import batches, fitting_samples
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array, Tensor

BATCHES, BATCH_BYTES = 8, 128 << 20
"""The correction is fitted to so many batches at most, each of as many samples as their layers' results take bytes: the
first batch alone has to tell terms that later layers can be fitted with."""


@dataclass(frozen=True)
class CorrectChannels(Pass):
    """Channel-wise affine correction at the module's bits, folded into weights, ranges and biases.

    Gain and offset per output channel are fitted to the float pre-activations, layer after layer
    (`qir.backends.execution.affine_fit`). Verified IR in, verified IR out; needs `calibration_data`; run it last,
    after the bits are chosen.

    Options:
        images: samples that the correction is fitted to at most, in up to eight batches.
    """

    name: ClassVar[str] = "correct-channels"
    images: int = 256

    def run(self, module: Module, context: PassContext) -> bool:
        """Fit and fold; raises `PassError` when the network has no quantizers."""
        terms = _fit(module, context, self.images)
        fold_affine(module, terms)
        return bool(terms)


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Bias correction (Nagel et al., 2019, section 4.2) through data: the correction's offset, with gain 1.

    Verified IR in, verified IR out; needs `calibration_data`; run it last, after the bits are chosen.

    Options:
        images: samples that the correction is fitted to at most, in up to eight batches.
    """

    name: ClassVar[str] = "correct-bias"
    images: int = 256

    def run(self, module: Module, context: PassContext) -> bool:
        """Fit and fold; raises `PassError` when the network has no quantizers."""
        terms = _fit(module, context, self.images, gain=False)
        fold_affine(module, terms)
        return bool(terms)


def _fit(module: Module, context: PassContext, images: int, *, gain: bool = True) -> dict[Node, tuple[Array, Array]]:
    layers = [layer.node for layer in quantized_layers(module.graph) if correctable(layer.node)]
    if not layers and module.graph.fake_quants():
        return {}
    if not layers:
        raise PassError("correction: the network has no quantized layers: run insert-fake-quant and calibrate first")
    data = context.require("calibration_data")
    at_once = fitting_samples(module, data, (node.result for node in layers), images, memory=BATCH_BYTES)
    count = min(-(-images // at_once), BATCHES)
    batch = min(at_once, max(images // count, 1))
    return fit_affine(module, layers, islice(batches(module, data, batch=batch), count), gain=gain)


def fold_affine(module: Module, terms: Mapping[Node, tuple[Any, Any]]) -> None:
    """Fold gain · (W x + b) + offset: W and the ranges of its quantizer times gain (codes stay), bias.

    Args:
        module: network with quantized layers.
        terms: node of the layer → (gain [channels], offset [channels]); gains are positive.

    Raises:
        PassError: a layer without a bias would need one that its op cannot take.
    """
    for layer in quantized_layers(module.graph):
        if layer.node in terms and layer.weight_tensor is not None:
            gain, offset = (np.asarray(term, np.float64) for term in terms[layer.node])
            if (gain != 1).any():
                _scale_weight(layer, layer.weight_tensor, gain)
            _move_bias(module, layer, gain, offset)


def _scale_weight(layer: QuantizedLayer, tensor: Tensor, gain: Array) -> None:
    quantizer, weight = layer.weight, tensor.numpy()
    axis, ranges = quantizer.granularity.axis, quantizer.calibration
    if axis is None or ranges is None:
        raise PassError(f"layer {layer.name!r}: gains per channel need a weight with per-channel ranges")
    shape = [1] * weight.ndim
    shape[axis] = -1
    quantizer.source.constant = Tensor.of((weight * gain.reshape(shape)).astype(np.float32))
    quantizer.calibration = (ranges * gain[None, :, None]).astype(np.float32)


def _move_bias(module: Module, layer: QuantizedLayer, gain: Array, offset: Array) -> None:
    bias, place, add = layer.bias, layer.bias_index, bias_add(layer.node)
    if bias is not None and bias.constant is not None and place is not None:
        moved = (bias.constant.numpy() * gain + offset).astype(np.float32)
        set_constant(layer.node, place, moved, f"{layer.name}.bias")
    elif place is not None:
        made = module.graph.add_constant(f"{layer.name}.bias", Tensor.of(offset.astype(np.float32)))
        layer.node.set_inputs([*layer.node.inputs[:place], made])
    elif add is not None:
        node, index = add
        vector = node.operand(index).constant
        if vector is None:
            raise PassError(f"layer {layer.name!r}: what is added to its result is computed: run fold-constants")
        added = Tensor.of((vector.numpy() + offset).astype(np.float32))
        node.set_inputs(
            [
                module.graph.add_constant(f"{layer.name}.bias", added) if position == index else value
                for position, value in enumerate(node.inputs)
            ]
        )
    elif offset.any():
        raise PassError(f"layer {layer.name!r}: {layer.node.op} takes no bias; write it as Gemm (pass canonicalize)")
