"""A network as a torch module: an interpreter of the graph whose bits can change without rebuilding.

It computes what the exported integers compute: weights and activations on their grids (float32 true division, half to
even), biases rounded to int32 at scale s_x·s_w. Gradients pass straight through the grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from qir.backends.torch_ops.lowerings import Lowering, lowering_of
from qir.backends.torch_quantizers import TorchParameters, TorchScheme, get_torch_scheme
from qir.errors import QirError
from qir.fake_quant import bits_of, parameters_of, ranges_at, scheme_of, set_ranges
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.policy import Bits
from qir.tensor import Tensor
from qir.tracing import quantizer_of

Hook = Callable[[Node, torch.Tensor], torch.Tensor]
"""Called with every node's result; what it returns is the result from then on."""


class TorchModule(nn.Module):
    """A module's main graph in torch.

    Float constants are parameters under their names (dots become underscores); everything else is a buffer.

    Args:
        module: network, with or without fake-quant nodes.
        device: where parameters live.
        quantize_bias: round biases to int32 at scale s_x·s_w, as the exported network has them.

    Raises:
        QirError: a node has no torch lowering.
    """

    def __init__(self, module: Module, device: str = "cpu", *, quantize_bias: bool = True) -> None:
        super().__init__()
        self.graph = module.graph
        self.device = torch.device(device)
        self.quantize_bias = quantize_bias
        self._steps: list[tuple[Node, Lowering | None]] = [
            (node, None if node.is_fake_quant else lowering_of(node)) for node in self.graph
        ]
        self._tensors: dict[Value, torch.Tensor] = {}
        for value in self.graph.constants:
            self._add_constant(value)
        self._quantizers = {node.name: node for node in self.graph.fake_quants()}
        self._bits: dict[Node, int] = {}
        self._grids: dict[tuple[Node, int], tuple[TorchScheme, TorchParameters]] = {}
        self._cached: dict[tuple[Node, int], torch.Tensor] = {}
        self._biases = self._find_biases() if quantize_bias else {}
        self._off = False
        for node in self._quantizers.values():
            bits = bits_of(node)
            if not isinstance(bits, int):
                raise QirError(f"quantizer {node.name!r}: torch execution takes one width a tensor")
            self._bits[node] = bits

    def _add_constant(self, value: Value) -> None:
        if value.constant is None:
            return
        tensor = torch.from_numpy(np.array(value.constant.numpy())).to(self.device)
        if not tensor.is_floating_point():
            self._tensors[value] = tensor
            return
        parameter = nn.Parameter(tensor, requires_grad=False)
        self.register_parameter(value.name.replace(".", "_") or f"constant_{len(self._tensors)}", parameter)
        self._tensors[value] = parameter

    def _find_biases(self) -> dict[Value, tuple[Node, Node]]:
        """Bias value → quantizers of its layer's data and weight, where both are quantized."""
        found = {}
        for node in self.graph:
            operands = op_of(node).quantizable(node)
            bias = None if operands is None or operands.bias is None else node.input(operands.bias)
            if operands is None or bias is None or bias.constant is None:
                continue
            data, weight = quantizer_of(node.input(operands.data)), quantizer_of(node.input(operands.weight))
            if data is not None and weight is not None:
                found[bias] = (data, weight)
        return found

    # -- bits ---------------------------------------------------------------------------------------------------

    def set_policy(self, policy: Mapping[str, Bits]) -> None:
        """Choose bits; nothing is rebuilt, and the graph's own bits stay.

        Raises:
            QirError: a quantizer does not exist, or has no ranges for the width.
        """
        for name, bits in policy.items():
            if name not in self._quantizers or not isinstance(bits, int):
                raise QirError(f"policy: quantizer {name!r} at {bits} bits: expected one of {', '.join(self._quantizers)} and one width")
            self._bits[self._quantizers[name]] = bits
            self._grid(self._quantizers[name])

    @contextmanager
    def quantizers_off(self) -> Iterator[None]:
        """Inside, the network computes in float."""
        self._off = True
        try:
            yield
        finally:
            self._off = False

    def trainable_constants(self) -> dict[str, nn.Parameter]:
        """Weights and biases by the names of their values: the float constants of layers that carry a gradient."""
        return {
            value.name: tensor
            for value, tensor in self._tensors.items()
            if isinstance(tensor, nn.Parameter) and tensor.ndim > 0
        }

    def forget_weights(self) -> None:
        """Drop cached quantized weights: call it after changing parameters outside of training."""
        self._cached.clear()

    def _grid(self, node: Node) -> tuple[TorchScheme, TorchParameters]:
        bits = self._bits[node]
        if (node, bits) not in self._grids:
            parameters = TorchParameters.of(parameters_of(node, bits), self.device)
            self._grids[node, bits] = (get_torch_scheme(scheme_of(node, bits)), parameters)
        return self._grids[node, bits]

    # -- execution ----------------------------------------------------------------------------------------------

    def forward(self, *inputs: torch.Tensor, hook: Hook | None = None) -> tuple[torch.Tensor, ...]:
        """The outputs.

        Args:
            inputs: one tensor per graph input without a default.
            hook: sees and may change every node's result.
        """
        given = [value for value in self.graph.inputs if value.constant is None]
        if len(inputs) != len(given):
            raise QirError(f"the network has the inputs {', '.join(v.name for v in given)}; {len(inputs)} tensors were given")
        values: dict[Value, torch.Tensor] = dict(self._tensors)
        values.update(zip(given, inputs, strict=True))
        for bias, (data, weight) in self._biases.items():
            values[bias] = values[bias] if self._off else self._rounded_bias(values[bias], data, weight)
        last = self._last_uses()
        for node, lowering in self._steps:
            operands = [None if value is None else values[value] for value in node.inputs]
            result = self._fake_quantize(node, operands) if lowering is None else lowering(node, operands)
            values[node.result] = result if hook is None else hook(node, result)
            for value in last.get(node, ()):
                del values[value]
        return tuple(values[value] for value in self.graph.outputs if value is not None)

    def _last_uses(self) -> dict[Node, tuple[Value, ...]]:
        """Values that no node behind this one reads: computed once."""
        if not hasattr(self, "_freed"):
            last: dict[Value, Node] = {}
            for node, _ in self._steps:
                for value in node.operands:
                    last[value] = node
            kept = set(self.graph.return_node.operands) | set(self._tensors)
            freed: dict[Node, list[Value]] = {}
            for value, node in last.items():
                if value not in kept:
                    freed.setdefault(node, []).append(value)
            self._freed = {node: tuple(values) for node, values in freed.items()}
        return self._freed

    def _fake_quantize(self, node: Node, operands: list[torch.Tensor | None]) -> torch.Tensor:
        x = operands[0]
        assert x is not None  # noqa: S101 - fake_quant has one operand
        if self._off:
            return x
        constant = node.operands[0].constant is not None
        key = (node, self._bits[node])
        if constant and not x.requires_grad and key in self._cached:
            return self._cached[key]
        scheme, parameters = self._grid(node)
        made = scheme.fake_quantize(x, parameters, node.attribute("axis"))
        if constant and not x.requires_grad:
            self._cached[key] = made
        return made

    def _rounded_bias(self, bias: torch.Tensor, data: Node, weight: Node) -> torch.Tensor:
        scale = self._grid(data)[1].scale[0] * self._grid(weight)[1].scale
        rounded = torch.round(bias / scale) * scale
        return bias + (rounded - bias).detach() if bias.requires_grad else rounded

    # -- writing back -------------------------------------------------------------------------------------------

    def write_back(self, module: Module) -> None:
        """Write the parameters into a module of the same names; ranges of changed weights are marked stale."""
        by_name = {value.name: value for value in module.graph.constants}
        for value, tensor in self._tensors.items():
            if not isinstance(tensor, nn.Parameter):
                continue
            array = tensor.detach().cpu().numpy()
            target = by_name[value.name]
            if target.constant is None or np.array_equal(target.constant.numpy(), array):
                continue
            target.constant = Tensor.of(array.copy())
            for user in target.users:
                if user.is_fake_quant:
                    user.set_attribute("stale", 1)


def scale_ranges(node: Node, gain: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Multiply a weight quantizer's ranges of every width by a positive gain per channel: [channels]."""
    tensor = node.attribute("ranges")
    if tensor is not None and ranges_at(node, node.attribute("widths")[0]) is not None:
        set_ranges(node, tensor.numpy() * gain[None, :, None])
