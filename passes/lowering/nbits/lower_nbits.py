"""Lowering to MatMulNBits and GatherBlockQuantized, ONNX Runtime's operators on weights of 2, 4 and 8 bits.

Products have accuracy level 4: ONNX Runtime quantizes each block of activations to int8 as it multiplies, sums int32
and multiplies by both scales (`qir.backends.integer.block_products`); without such a kernel it computes in float. Rows
of an embedding are read back as floats, exactly. Layers of other kinds (convolutions) keep their codes for
`lower-qcdq`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.packing import pack_rows
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.lowering.holdings import Legalization
from qir.passes.lowering.legalize import legalization
from qir.passes.lowering.nbits.packing import PackedBlocks, blocks_of
from qir.passes.lowering.nbits.rules import breaches
from qir.passes.lowering.parts.chain import Chain
from qir.tensor import Array
from qir.tracing import quantizer_of
from qir.types import DType

MICROSOFT = "com.microsoft"
ACCURACY_LEVEL = 4


@dataclass(frozen=True)
class LowerNbits(Pass):
    """Replace MatMul and Gather with quantized constant weights by MatMulNBits and GatherBlockQuantized.

    Verified IR in, verified IR out. Biases that follow as Add go into the operator.
    """

    name: ClassVar[str] = "lower-nbits"

    def run(self, module: Module, context: PassContext) -> bool:
        """Lower the main graph; raises `ExportError` with every rule that the network breaks and its remedy."""
        graph, found = module.graph, legalization(module, context)
        broken = list(breaches(graph, found))
        if broken:
            raise ExportError(f"profile {found.profile.name!r}: " + "; ".join(broken))
        lowered = _Lowering(graph, found)
        for node in graph.nodes:
            lowered.lower(node)
        lowered.finish()
        if any(node.domain == MICROSOFT for node in graph):
            module.opsets.setdefault(MICROSOFT, 1)
        return True


class _Lowering:
    def __init__(self, graph: Graph, found: Legalization) -> None:
        self.graph, self.found = graph, found
        self.stored: dict[FakeQuant, tuple[Value | None, ...]] = {}

    def lower(self, node: Node) -> None:
        """Replace a product or an embedding."""
        index = 1 if is_standard(node, "MatMul") else 0 if is_standard(node, "Gather") else None
        quantizer = None if index is None else quantizer_of(node.input(index))
        if index is None or quantizer is None or not quantizer.is_weight:
            return
        if index == 0 and node.attribute("axis", 0) != 0:
            return
        blocks = blocks_of(quantizer, self.found.holdings[quantizer.name], 1 - index)
        if blocks is None or (index == 0 and blocks.length * blocks.bits % 8):
            return
        if index:
            self._product(node, quantizer, blocks)
        else:
            self._embedding(node, quantizer, blocks)
        for name in (node.name, quantizer.name):
            self.found.emulated.pop(name, None)
        if not quantizer.result.uses:
            source = quantizer.source
            self.graph.erase(quantizer.node)
            if not source.uses and source in self.graph.constants:
                self.graph.remove_constant(source)

    def finish(self) -> None:
        """Codes that are left go through DequantizeLinear, which has no 2 bits in the profile's operator set."""
        for name, holding in self.found.holdings.items():
            if holding.container is DType.INT2:
                self.found.holdings[name] = replace(holding, container=DType.INT4)

    def _product(self, node: Node, quantizer: FakeQuant, blocks: PackedBlocks) -> None:
        last, bias = _bias(node, len(blocks.codes))
        codes, scales, zeros = self._constants(node, quantizer, blocks, blocks.packed)
        attributes = {
            "K": blocks.length,
            "N": len(blocks.codes),
            "bits": blocks.bits,
            "block_size": blocks.block,
            "accuracy_level": ACCURACY_LEVEL,
        }
        inputs = (node.input(0), codes, scales, zeros, *(() if bias is None else (None, bias)))
        self._replace(last, "MatMulNBits", inputs if zeros or bias else inputs[:3], node.name, attributes)
        if last is not node:
            self.graph.erase(node)

    def _embedding(self, node: Node, quantizer: FakeQuant, blocks: PackedBlocks) -> None:
        rows = blocks.codes.reshape(len(blocks.codes), -1)[:, : blocks.length]
        codes, scales, zeros = self._constants(node, quantizer, blocks, pack_rows(rows, blocks.bits))
        attributes = {"bits": blocks.bits, "block_size": blocks.block, "gather_axis": 0, "quantize_axis": 1}
        inputs = (codes, node.input(1), scales, *(() if zeros is None else (zeros,)))
        self._replace(node, "GatherBlockQuantized", inputs, node.name, attributes)

    def _constants(
        self, node: Node, quantizer: FakeQuant, blocks: PackedBlocks, codes: Array
    ) -> tuple[Value | None, ...]:
        """Return packed codes, scales and zero points, once for all readers of a weight of the same kind."""
        if quantizer not in self.stored:
            chain, zeros = Chain(self.graph, node, quantizer.name), blocks.packed_zero_points
            self.stored[quantizer] = (
                chain.constant("codes", codes),
                chain.constant("scale", blocks.scales),
                None if zeros is None else chain.constant("zero_point", zeros),
            )
        return self.stored[quantizer]

    def _replace(
        self, node: Node, op: str, inputs: tuple[Value | None, ...], name: str, attributes: dict[str, int]
    ) -> None:
        result, label = node.result, node.result.name
        made = Node(op, inputs, (self.graph.clock.unique_name(label),), domain=MICROSOFT, attributes=attributes)
        self.graph.insert(made, before=node)
        made.result.type = result.type
        result.replace_all_uses_with(made.result)
        self.graph.erase(node)
        made.name, made.result.name = name, label


def _bias(node: Node, channels: int) -> tuple[Node, Value | None]:
    """Return the Add of a constant per output channel that alone reads a product, and the constant.

    Else the product.
    """
    users = node.result.users
    if len(users) != 1 or not is_standard(users[0], "Add") or len(node.result.uses) != 1:
        return node, None
    bias = next((value for value in users[0].operands if value is not node.result), None)
    array = array_of(bias)
    return (node, None) if array is None or array.shape != (channels,) else (users[0], bias)
