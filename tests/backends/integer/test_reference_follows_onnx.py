"""Every kernel of the integer reference computes what ONNX says, over grids of attributes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.integer.kernels import KERNELS, MOVES
from qir.backends.integer.reference import IntegerReference

sys.path.insert(0, str(Path(__file__).parent))
from operator_grids import Case, Quantized, cases

ELEMENTS = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int32": TensorProto.INT32}

DEAD = [helper.make_node("QuantizeLinear", ["ys", "ys", "yz"], ["unused"])]
"""The integer reference takes networks with a quantizer."""


class Network:
    """DequantizeLinear → node → QuantizeLinear of a case, and the node alone on floats."""

    def __init__(self, case: Case, *, unit: bool = False) -> None:
        self.case, self.random, self.unit = case, np.random.default_rng(len(str(case))), unit
        self.before: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.reals: dict[str, np.ndarray] = {}
        self.feed: dict[str, np.ndarray] = {}
        self.names = [self.operand(index, operand) for index, operand in enumerate(case.operands)]
        if case.bias is not None:
            self.names.append(self.bias())
        self.expected = self.compute()

    def operand(self, index: int, operand: Quantized | np.ndarray | None) -> str:
        if not isinstance(operand, Quantized):
            if operand is not None:
                self.constants[f"p{index}"] = operand
            return "" if operand is None else f"p{index}"
        limits = np.iinfo(operand.dtype)
        codes = self.random.integers(limits.min, limits.max + 1, operand.shape).astype(operand.dtype)
        ends = (limits.min, limits.max, (limits.min + limits.max + 1) // 2, limits.min + 77)
        weight = operand.axis is not None or (
            index == 1 and self.case.op in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
        )
        zero = 0 if weight and operand.dtype == "int8" else int(self.random.choice(ends))
        scale = self.random.uniform(0.01, 0.05, () if operand.axis is None else operand.shape[operand.axis])
        if self.unit:
            scale = np.ones(())
        if self.case.op == "Concat" and self.random.random() < 0.5:
            scale, zero = 0.02, limits.max
        return self.dequantize(f"q{index}", codes, np.asarray(scale, np.float32), zero, operand.axis, constant=weight)

    def dequantize(self, name: str, codes: np.ndarray, scale: np.ndarray, zero: int, axis, *, constant: bool) -> str:
        (self.constants if constant else self.feed)[name] = codes
        self.constants[f"{name}.s"], self.constants[f"{name}.z"] = scale, np.full(scale.shape, zero, codes.dtype)
        attributes = {} if axis is None else {"axis": axis}
        names = [name, f"{name}.s", f"{name}.z"]
        self.before.append(helper.make_node("DequantizeLinear", names, [f"{name}.real"], **attributes))
        shape = [1] * codes.ndim
        if scale.size > 1:
            shape[axis] = -1
        self.reals[f"{name}.real"] = (codes.astype(np.float32) - zero) * (
            scale.reshape(shape) if scale.size > 1 else scale
        )
        return f"{name}.real"

    def bias(self) -> str:
        kind, case = self.case.bias, self.case
        product = np.asarray(self.constants["q0.s"] * self.constants["q1.s"], np.float32)
        weight = case.operands[1]
        assert isinstance(weight, Quantized)
        channels = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if case.attributes.get("transB") else 1}[case.op]
        count = weight.shape[channels]
        shape = {"row": (1, count), "scalar": (), "column": (3, 1), "matrix": (3, count)}.get(kind, (count,))
        if kind == "float":
            self.constants["bias"] = self.random.normal(size=shape).astype(np.float32)
            return "bias"
        if kind in {"scalar", "column"}:
            product = product.reshape(-1)[0].reshape(())
        other = {"other": np.linspace(0.001, 0.02, count), "scalar scale": 0.003, "int8": 0.01, "uint8": 0.01}
        scale = np.asarray(other.get(kind, product), np.float32)
        dtype = {"int8": np.int8, "uint8": np.uint8}.get(kind, np.int32)
        codes = self.random.integers(0, 100, shape).astype(dtype)
        zero = 7 if kind == "uint8" else 0
        return self.dequantize("bias", codes, scale, zero, codes.ndim - 1 if scale.size > 1 else None, constant=True)

    def compute(self) -> np.ndarray:
        """What the node gives on floats."""
        feeds = self.reals | {name: self.constants[name] for name in self.names if name in self.constants}
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ]
        model = self.model([helper.make_node(self.case.op, self.names, ["r"], **self.case.attributes)], inputs, "r", [])
        if self.case.oracle == "ort":
            return OrtSession(model.SerializeToString(), optimization="disable").run(feeds)["r"]
        return np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])

    @property
    def scale(self) -> np.float32:
        """Of the result: 250 codes hold it."""
        return np.float32((self.expected.max(initial=0) - self.expected.min(initial=0)) / 250 or 0.1)

    @property
    def zero(self) -> np.uint8:
        return np.uint8(np.clip(np.rint(-self.expected.min(initial=0) / self.scale), 0, 255))

    @property
    def exact(self) -> np.ndarray:
        """The result in steps of its scale, before rounding."""
        return np.clip(self.expected.astype(np.float64) / self.scale + self.zero, 0, 255)

    def quantized(self) -> qir.Module:
        node = helper.make_node(self.case.op, self.names, ["r"], name="node", **self.case.attributes)
        return self.network([*self.before, node, helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["y"])])

    def on_codes(self, op: str, domain: str) -> qir.Module:
        """The operator on codes; its bias is an int32 constant without a scale."""
        triples = [list(node.input) for node in self.before if node.input[0] != "bias"]
        bias = ["bias"] if self.case.bias is not None else []
        inputs = [name for triple in triples for name in triple]
        if op == "QLinearConcat":
            inputs = ["ys", "yz", *inputs]
        elif op == "QGemm":
            inputs += [*(bias or [""]), "ys", "yz"]
        else:
            inputs += ["ys", "yz", *bias]
        attributes = {name: value for name, value in self.case.attributes.items() if name not in {"beta", "dilations"}}
        if op == "QLinearConv":
            attributes = self.case.attributes
        return self.network([helper.make_node(op, inputs, ["y"], name="node", domain=domain, **attributes), *DEAD])

    def sums(self) -> qir.Module:
        inputs = ["q0", "q1", "q0.z", "q1.z"]
        node = helper.make_node(f"{self.case.op}Integer", inputs, ["y"], name="node", **self.case.attributes)
        return self.network([node, *DEAD], TensorProto.INT32)

    def network(self, nodes: list[onnx.NodeProto], element: int = TensorProto.UINT8) -> qir.Module:
        constants = self.constants | {"ys": self.scale, "yz": self.zero}
        inputs = [helper.make_tensor_value_info(n, ELEMENTS[a.dtype.name], a.shape) for n, a in self.feed.items()]
        tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
        return qir.load(self.model(nodes, inputs, "y", tensors, element).SerializeToString())

    def model(self, nodes, inputs, output: str, constants, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
        outputs = [helper.make_tensor_value_info(output, element, None)]
        graph = helper.make_graph(nodes, "node", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", self.case.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_codes_are_those_of_the_operator_on_real_numbers(case) -> None:
    """Every code is the rounding of ONNX's result, which float32 may move by a thousandth of a step."""
    network = Network(case)
    run = IntegerReference(network.quantized()).run(network.feed)
    assert run.outputs["y"].shape == network.exact.shape
    assert np.abs(run.outputs["y"] - network.exact).max(initial=0) < 0.501
    assert len(run.float_nodes) == bool(case.floats)


CODES = {
    "Conv": ("QLinearConv", ""),
    "MatMul": ("QLinearMatMul", ""),
    "Gemm": ("QGemm", "com.microsoft"),
    "Add": ("QLinearAdd", "com.microsoft"),
    "Mul": ("QLinearMul", "com.microsoft"),
    "Concat": ("QLinearConcat", "com.microsoft"),
    "AveragePool": ("QLinearAveragePool", "com.microsoft"),
    "GlobalAveragePool": ("QLinearGlobalAveragePool", "com.microsoft"),
}
ON_CODES = [
    case
    for case in cases()
    if case.op in CODES and not case.floats and case.bias not in {"scalar", "column"} and "dilation 2" not in case.name
]


@pytest.mark.parametrize("case", ON_CODES, ids=lambda case: f"{CODES[case.op][0]} {case.name}")
def test_operators_on_codes_give_the_codes_of_the_operator_on_real_numbers(case) -> None:
    network = Network(case)
    run = IntegerReference(network.on_codes(*CODES[case.op])).run(network.feed)
    assert run.outputs["y"].shape == network.exact.shape
    assert np.abs(run.outputs["y"] - network.exact).max(initial=0) < 0.501
    assert run.float_nodes == ()


SUMS = [case for case in cases() if case.op in {"Conv", "MatMul"} and case.bias is None]


@pytest.mark.parametrize("case", SUMS, ids=lambda case: f"{case.op}Integer {case.name}")
def test_sums_are_the_integers_of_the_operator_at_scale_one(case) -> None:
    network = Network(case, unit=True)
    run = IntegerReference(network.sums()).run(network.feed)
    assert run.outputs["y"].dtype == np.int32
    np.testing.assert_array_equal(run.outputs["y"], network.expected)


def test_every_kernel_and_every_move_has_a_grid() -> None:
    assert {case.op for case in cases()} == {*KERNELS, *MOVES, "Conv", "Gemm", "MatMul"}
