"""The check of a file whose weights alone have codes: every product is computed again from what ONNX Runtime gave it.

A product of float rows with a weight in blocks is right where each element is what int8 blocks of its rows give
(accuracy level 4), up to the rounding of float32 sums, or, on CPUs without such a kernel, what the dequantized weight
gives. Rows are those of the network's own run; one of them goes through the product alone too, because one row has
kernels of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qir.backends.execution.executor import OrtExecutor
from qir.backends.integer.block_products import BlockWeight, float_sums, int8_block_sums
from qir.constants import require_constant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.packing import unpack_rows
from qir.passes.analysis.constants import array_of, is_standard
from qir.passes.data.batch_axes import Feed
from qir.passes.parity.executors import SESSIONS
from qir.tensor import Array
from qir.types import DType, TensorType

ROWS = 64
"""Rows of a product that are computed again, of each feed."""


@dataclass
class ProductCheck:
    """What the products of a file are.

    Attributes:
        products: how many there are.
        elements: results compared.
        wrong: those that neither arithmetic explains.
        in_float: names of products that this CPU computes in float.
        refusals: one sentence for each wrong product.
    """

    products: int = 0
    elements: int = 0
    wrong: int = 0
    in_float: set[str] = field(default_factory=set)
    refusals: list[str] = field(default_factory=list)

    def add(self, name: str, rows: Array, weight: BlockWeight, found: Array, *, alone: bool) -> None:
        """Count the results [rows, channels] of one product."""
        exact = int8_block_sums(rows, weight).holds(found)
        if not exact.all():
            floats = float_sums(rows, weight).holds(found)
            if floats.all():
                self.in_float.add(name)
                exact = floats
        self.elements += exact.size
        off = int((~exact).sum())
        self.wrong += off
        if off:
            how = "for one row" if alone else f"for {len(rows)} rows"
            self.refusals.append(
                f"product {name!r}: {off:,} of {exact.size:,} results {how} are not what its codes give in ONNX Runtime"
            )


@dataclass(frozen=True)
class _Product:
    """A product in a file: its node, the weight, and the bias that the node adds itself."""

    node: Node
    weight: BlockWeight
    bias: Array | None


def check_products(lowered: Module, feeds: list[Feed]) -> ProductCheck:
    """Hold every product with a weight in blocks against both arithmetics, at ONNX Runtime's default session."""
    found, products = ProductCheck(), list(_products(lowered.graph))
    found.products = len(products)
    if not products:
        return found
    shown = _with_operands(lowered, [product.node for product in products])
    executor = OrtExecutor(shown, **SESSIONS["default"])
    for number, feed in enumerate(feeds):
        outputs = feed | executor.run(feed).outputs
        for product in products:
            name = product.node.name
            rows, results = (_rows(outputs[value.name]) for value in (product.node.operand(0), product.node.result))
            if product.bias is not None:
                results = results - product.bias
            found.add(name, rows, product.weight, results, alone=False)
            if number == 0 and len(rows):
                found.add(name, rows[:1], product.weight, _alone(lowered, product, rows[:1]), alone=True)
    return found


def _products(graph: Graph) -> Iterator[_Product]:
    for node in graph:
        if node.op == "MatMulNBits":
            weight = _packed_weight(node)
            if weight is not None:
                yield _Product(node, weight, array_of(node.input(5)))
        elif is_standard(node, "MatMul"):
            maker = node.operand(1).producer
            weight = None if maker is None else _dequantized_weight(maker)
            if weight is not None:
                yield _Product(node, weight, None)


def _packed_weight(node: Node) -> BlockWeight | None:
    codes, scales = array_of(node.input(1)), array_of(node.input(2))
    if codes is None or scales is None:
        return None
    bits, block = int(node.attribute("bits")), int(node.attribute("block_size"))
    rows = unpack_rows(codes.reshape(len(codes), -1), bits).astype(np.int16).reshape(len(codes), -1, block)
    packed = array_of(node.input(3))
    middle = np.full(scales.shape, 1 << (bits - 1), np.int16)
    zeros = middle if packed is None else unpack_rows(packed.reshape(len(codes), -1), bits)[:, : scales.shape[1]]
    return _block_weight(rows - zeros[:, :, None].astype(np.int16), scales, int(node.attribute("K")), bits)


def _dequantized_weight(maker: Node) -> BlockWeight | None:
    """Return the weight [length, channels] that a DequantizeLinear makes of blocks along its first axis."""
    codes, scales = array_of(maker.input(0)), array_of(maker.input(1))
    block = int(maker.attribute("block_size", 0))
    if not is_standard(maker, "DequantizeLinear") or not block or codes is None or scales is None or codes.ndim != 2:
        return None
    if maker.attribute("axis", 1) % 2 != 0:
        return None
    zero, element = array_of(maker.input(2)), maker.operand(0).dtype or DType.INT8
    zeros = np.zeros(scales.shape, np.int16) if zero is None else zero.astype(np.int16)
    length, channels = codes.shape
    centred = codes.astype(np.int16) - np.repeat(zeros, block, axis=0)[:length]
    filled = np.zeros((len(scales) * block, channels), np.int16)
    filled[:length] = centred
    return _block_weight(filled.T.reshape(channels, -1, block), np.ascontiguousarray(scales.T), length, element.bits)


def _block_weight(codes: Array, scales: Array, length: int, bits: int) -> BlockWeight:
    codes = codes.copy()
    codes.reshape(len(codes), -1)[:, length:] = 0
    return BlockWeight(codes, scales.astype(np.float32), length, 1 << (bits - 1))


def _with_operands(lowered: Module, nodes: list[Node]) -> Module:
    """Return a copy that shows what the nodes read and give as outputs too."""
    made = lowered.clone()
    names = {value.name for node in nodes for value in (node.operand(0), node.result)}
    values = [value for value in made.graph.values() if value.name in names and not value.is_input]
    made.graph.set_outputs(values, [value.name for value in values])
    return made


def _rows(values: Array) -> npt.NDArray[np.float32]:
    """Up to `ROWS` rows along the last axis, spread over all."""
    rows = values.reshape(-1, values.shape[-1])
    step = max(len(rows) // ROWS, 1)
    return np.asarray(rows[::step][:ROWS], np.float32)


def _alone(lowered: Module, product: _Product, row: Array) -> Array:
    """Return what the product gives for one row by itself, without its bias."""
    graph, node = Graph("product"), product.node
    data = graph.add_input("x", TensorType(DType.FLOAT32, row.shape))

    def copied(original: Node, inputs: dict[Value, Value]) -> Node:
        attributes = {name: attribute.python() for name, attribute in original.attributes.items()}
        operands = []
        for value in original.inputs[:4]:
            if value is None or value in inputs:
                operands.append(None if value is None else inputs[value])
            else:
                operands.append(graph.add_constant(value.name, require_constant(value)))
        made = Node(
            original.op, tuple(operands), (original.result.name,), domain=original.domain, attributes=attributes
        )
        graph.insert(made).result.type = original.result.type
        return made

    known = {node.operand(0): data}
    if node.op == "MatMul":
        known[node.operand(1)] = copied(node.operand(1).node, {}).result
    result = copied(node, known).result
    result.type = TensorType(DType.FLOAT32, (1, len(product.weight.codes)))
    graph.set_outputs([result], ["y"])
    module = Module(graph, opsets=dict(lowered.opsets), ir_version=lowered.ir_version)
    return OrtExecutor(module, **SESSIONS["default"]).run({"x": np.asarray(row, np.float32)}).outputs["y"]
