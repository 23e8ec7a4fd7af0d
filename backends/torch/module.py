"""A network as a torch module: an interpreter of the graph whose bits can change without rebuilding.

It computes what the exported integers compute: weights and activations on their grids (float32 true division, half to
even), biases rounded to int32 at scale s_x·s_w. Gradients pass straight through the grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from qir.backends.execution.biases import find_biases
from qir.backends.torch.graph import GraphPlan
from qir.backends.torch.ops import Lowering, Operands
from qir.backends.torch.quantizers import TorchParameters, TorchScheme, fake_quantize_channels, get_torch_scheme
from qir.backends.torch.quantizers.blocks import fake_quantize
from qir.backends.torch.runtime import without_gradient
from qir.backends.torch.weights import (
    Recalibrate,
    torch_tensor,
    trained_values,
    write_constants,
    write_learned_ranges,
)
from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.graph import Node, Value
from qir.labels import constant_labels
from qir.module import Module
from qir.policy import Bits
from qir.quantizers.multiples import integer_step

Hook = Callable[[Node, torch.Tensor], torch.Tensor]
"""Called with every node's first result; what it returns is the result from then on."""

Grid = tuple[TorchScheme, TorchParameters]


class TorchModule(nn.Module):
    """A module's main graph in torch.

    Float constants are parameters under their names (dots become underscores); everything else is kept as it is.

    Args:
        module: network, with or without fake-quant nodes.
        device: where parameters live and results are computed.
        quantize_bias: round biases to int32 at scale s_x·s_w, as the exported network has them.
        trainable: weights, biases and affine parameters require a gradient from the start.

    Raises:
        QirError: torch cannot use the device, or `trainable` and a node has no torch lowering, so that no gradient
            passes it.
    """

    def __init__(
        self, module: Module, device: torch.device | str = "cpu", *, quantize_bias: bool = True, trainable: bool = False
    ) -> None:
        super().__init__()
        self.graph = module.graph
        self.device = _usable(device)
        self.quantize_bias = quantize_bias
        self._plan = GraphPlan(self.graph, module.opsets)
        self._given = tuple(value for value in self.graph.inputs if value.constant is None)
        self._tensors: dict[Value, torch.Tensor] = {}
        self.constants = nn.Module()
        self.ranges = nn.ParameterDict()
        for graph in (self.graph, *(g for node in self.graph.walk() for g in node.subgraphs())):
            for value in (*graph.inputs, *graph.constants):
                self._add_constant(value)
        self._quantizers = {node.name: FakeQuant(node) for node in self.graph.walk() if node.is_fake_quant}
        self._bits: dict[FakeQuant, Bits] = {found: found.bits for found in self._quantizers.values()}
        self._grids: dict[tuple[FakeQuant, int], Grid] = {}
        self._cached: dict[tuple[Node | FakeQuant, Bits, Bits], torch.Tensor] = {}
        self._learned: dict[tuple[FakeQuant, int], nn.Parameter] = {}
        self._biases = find_biases(self.graph) if quantize_bias else {}
        self._off = False
        self._on: dict[FakeQuant, Bits] = {}
        if trainable:
            self.require_gradients()
            for parameter in self.trainable_constants().values():
                parameter.requires_grad_(True)

    def _add_constant(self, value: Value) -> None:
        if value.constant is None:
            return
        tensor = torch_tensor(value.constant)
        if tensor is None:
            if value.uses:
                raise QirError(f"constant {value.name!r}: torch holds no {value.constant.dtype}; use OrtSession")
            return
        tensor = tensor.to(self.device)
        if tensor.is_floating_point():
            tensor = self._arranged(tensor)
            tensor = nn.Parameter(tensor, requires_grad=False)
            key = value.name.replace(".", "_") or "constant"
            while hasattr(self.constants, key):
                key += "_"
            self.constants.register_parameter(key, tensor)
        self._tensors[value] = tensor

    def _arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return images and kernels with their channels last in memory, which convolutions on the CPU like best."""
        if self.device.type != "cpu" or tensor.ndim != 4 or not tensor.is_floating_point():
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    def require_gradients(self) -> None:
        """Refuse before any work what needs gradients where a node is run by ONNX Runtime.

        Raises:
            QirError: there are such nodes; the message names them.
        """
        if self._plan.runtime.nodes:
            raise QirError(without_gradient(self._plan.runtime.nodes))

    # -- bits ---------------------------------------------------------------------------------------------------

    def set_policy(self, policy: Mapping[str, Bits]) -> None:
        """Choose bits; nothing is rebuilt, and the graph's own bits stay.

        Raises:
            QirError: a quantizer does not exist, or has no ranges for the width.
        """
        for name, bits in policy.items():
            quantizer = self._quantizers.get(name)
            if quantizer is None:
                raise QirError(
                    f"policy: quantizer {name!r} does not exist: expected one of {', '.join(self._quantizers)}"
                )
            for width in sorted({bits} if isinstance(bits, int) else set(bits) - {0}):
                self._grid(quantizer, width)
            self._bits[quantizer] = bits

    @property
    def policy(self) -> dict[str, Bits]:
        """The bits that are simulated now, by name of the quantizer."""
        return {name: self._bits[quantizer] for name, quantizer in self._quantizers.items()}

    @contextmanager
    def quantizers_off(self, but: Mapping[str, Bits] | None = None) -> Iterator[None]:
        """Inside, the network computes in float.

        Args:
            but: quantizers that are on all the same, by name, and their bits.
        """
        before = self._off, self._on
        self._off, self._on = True, {self._quantizers[name]: bits for name, bits in (but or {}).items()}
        try:
            yield
        finally:
            self._off, self._on = before

    def bits_now(self, quantizer: FakeQuant) -> Bits | None:
        """Return the bits that a quantizer simulates now; None where it is off."""
        return self._on.get(quantizer) if self._off else self._bits[quantizer]

    def trainable_constants(self) -> dict[str, nn.Parameter]:
        """Return weights, biases and affine parameters by the names of their values.

        No running statistics, bounds, scales.
        """
        wanted = trained_values(self.graph)
        labels = constant_labels(self.graph)
        return {labels[v]: t for v, t in self._tensors.items() if v in wanted and isinstance(t, nn.Parameter)}

    def learn_ranges(self) -> dict[str, nn.Parameter]:
        """Make the ranges of learned schemes (LSQ, PACT) at the current bits parameters, by quantizer name.

        Raises:
            QirError: a quantizer is not calibrated.
        """
        found = {}
        for name, quantizer in self._quantizers.items():
            bits = self._bits[quantizer]
            if not isinstance(bits, int) or not get_torch_scheme(quantizer.scheme_name(bits)).learns_ranges:
                continue
            if (quantizer, bits) not in self._learned:
                parameter = nn.Parameter(torch.from_numpy(quantizer.ranges(bits).copy()).to(self.device))
                self._learned[quantizer, bits] = parameter
                self.ranges[f"{name.replace('.', '_')}_{bits}"] = parameter
            found[name] = self._learned[quantizer, bits]
        return found

    def forget_weights(self) -> None:
        """Drop cached quantized weights: call it after changing parameters outside of training."""
        self._cached.clear()

    def _grid(self, quantizer: FakeQuant, bits: int) -> Grid:
        if (quantizer, bits) in self._learned:
            scheme = get_torch_scheme(quantizer.scheme_name(bits))
            ranges = self._learned[quantizer, bits]
            return scheme, scheme.parameters(ranges, bits, quantizer.signed, quantizer.narrow)
        if (quantizer, bits) not in self._grids:
            parameters = TorchParameters.of(quantizer.grid(bits), self.device)
            self._grids[quantizer, bits] = (get_torch_scheme(quantizer.scheme_name(bits)), parameters)
        return self._grids[quantizer, bits]

    def _step(self, quantizer: FakeQuant, bits: int) -> torch.Tensor | None:
        """Return the scale whose integer multiples all values of a quantizer are; None where its levels have none."""
        grid = self._grid(quantizer, bits)[1]
        if grid.levels is None:
            return grid.scale
        step = integer_step(quantizer.grid(bits))
        return None if step is None else torch.from_numpy(step).to(self.device)

    # -- execution ----------------------------------------------------------------------------------------------

    def forward(
        self, *inputs: torch.Tensor, hook: Hook | None = None, intermediates: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
        """Return the outputs in order.

        With `intermediates` a dictionary of the outputs and of the values of these names.

        Args:
            inputs: one tensor per graph input without a default.
            hook: sees and may change every node's result.
            intermediates: names of values of the main graph.

        Raises:
            QirError: the number of inputs is wrong, or there is no value of a name.
        """
        if len(inputs) != len(self._given):
            names = ", ".join(v.name for v in self._given)
            raise QirError(f"the network has the inputs {names}; {len(inputs)} tensors were given")
        values: dict[Value, torch.Tensor] = dict(self._tensors)
        values.update(zip(self._given, map(self._arranged, inputs), strict=True))
        named = self._named(intermediates or ())

        def kernel(
            node: Node, lowering: Lowering | None, operands: Operands
        ) -> torch.Tensor | tuple[torch.Tensor, ...]:
            if lowering is None:
                made: torch.Tensor | tuple[torch.Tensor, ...] = self._fake_quantize(FakeQuant(node), operands)
            else:
                if node in self._biases and not self._off:
                    operands = self._with_rounded_bias(node, operands)
                made = lowering(node, operands)
            if hook is None:
                return made
            return (hook(node, made[0]), *made[1:]) if isinstance(made, tuple) else hook(node, made)

        outputs = self._plan.run(values, kernel, frozenset(named.values()))
        if intermediates is None:
            return tuple(outputs)
        returned = (n for n, v in zip(self.graph.output_names, self.graph.outputs, strict=True) if v is not None)
        return dict(zip(returned, outputs, strict=True)) | {name: values[value] for name, value in named.items()}

    def _named(self, names: Sequence[str]) -> dict[str, Value]:
        if not names:
            return {}
        by_name = {value.name: value for value in self.graph.values()}
        for name in names:
            if name not in by_name:
                raise QirError(
                    f"the network has no value {name!r}; its outputs are {', '.join(self.graph.output_names)}"
                )
        return {name: by_name[name] for name in names}

    def _fake_quantize(self, quantizer: FakeQuant, operands: Operands) -> torch.Tensor:
        x = operands[0]
        if x is None:
            raise QirError(f"quantizer {quantizer.name!r} has no operand")
        bits = self.bits_now(quantizer)
        if bits is None:
            return x
        constant = quantizer.source.constant is not None
        cachable = constant and not x.requires_grad and (quantizer, bits) not in self._learned
        if cachable and (quantizer, bits, 0) in self._cached:
            return self._cached[quantizer, bits, 0]
        granularity = quantizer.granularity
        if isinstance(bits, int):
            scheme, parameters = self._grid(quantizer, bits)
            made = fake_quantize(x, scheme, parameters, granularity)
        elif granularity.axis is None:
            raise QirError(f"quantizer {quantizer.name!r}: has a width per channel and no axis of channels")
        else:
            grids = {width: self._grid(quantizer, width) for width in set(bits) - {0}}
            made = fake_quantize_channels(x, grids, bits, granularity.axis)
        if cachable:
            self._cached[quantizer, bits, 0] = made
        return made

    def _with_rounded_bias(self, node: Node, operands: Operands) -> Operands:
        """Return bias on the grid s_x·s_w of the int32 accumulators (numerics: division in float64, as exported)."""
        index, data, weight = self._biases[node]
        bits, widths = self._bits[data], self._bits[weight]
        bias = operands[index]
        if bias is None or not isinstance(bits, int) or not isinstance(widths, int):
            return operands
        key = (node, bits, widths)
        learned = (data, bits) in self._learned or (weight, widths) in self._learned
        if bias.requires_grad or learned or key not in self._cached:
            first, second = self._step(data, bits), self._step(weight, widths)
            if first is None or second is None or first.numel() != 1:
                return operands
            with torch.no_grad():
                scale = first[0] * second
                rounded = (bias.double() / scale.double()).round().to(scale.dtype) * scale
            made = bias + (rounded - bias).detach() if bias.requires_grad else rounded
            if not bias.requires_grad and not learned:
                self._cached[key] = made
        else:
            made = self._cached[key]
        return [*operands[:index], made, *operands[index + 1 :]]

    # -- writing back -------------------------------------------------------------------------------------------

    def write_back(self, module: Module, *, recalibrate: Recalibrate | None = None) -> None:
        """Write the parameters into a module of the same names.

        Args:
            module: the network that this was made from, or a clone of it.
            recalibrate: (weight's quantizer, weight) → its ranges, float32 [widths, channels or 1, 2], for example
                `qir.backends.torch.weights.fitted_ranges`; without it the
                ranges of changed weights are marked stale. Learned ranges are written as they were learned.
        """
        write_constants(self.graph, module, self._tensors, recalibrate)
        write_learned_ranges(module, self._learned)


def _usable(device: torch.device | str) -> torch.device:
    """Return the device, tried out."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise QirError(f"device {device!s}: torch cannot use it: {str(error).splitlines()[0]}; name another") from error
