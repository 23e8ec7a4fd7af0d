"""Networks on an emulated CPU without VNNI: it computes what the saturating reference does.

Debian's `qemu-user` emulates an Intel Haswell (AVX2, no VNNI), on which ONNX Runtime picks the kernels that clip.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.integer.reference import IntegerReference
from qir.onnx_io import to_bytes
from qir.passes import PassContext, PassManager, export, parse_pipeline
from qir.passes.parity.layers import expose_codes

QEMU = shutil.which("qemu-x86_64") if platform.machine() == "x86_64" else None
SESSION = Path(__file__).with_name("emulated_session.py")
LENET = Path(__file__).resolve().parents[3] / "models" / "trained" / "lenet_fashion_mnist.onnx"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU is None, reason="needs qemu-x86_64 (Debian's qemu-user) and packages for x86-64"),
]


def emulated(folder: Path, cases: list[tuple[bytes, dict, dict]]) -> list[dict]:
    """Outputs of each (file, feeds, entries of the session), by ONNX Runtime on an emulated Haswell."""
    folder = folder / "emulated"
    folder.mkdir()
    for index, (content, feeds, entries) in enumerate(cases):
        path = folder / f"{index:04}.onnx"
        path.write_bytes(content)
        path.with_suffix(".json").write_text(json.dumps(entries))
        np.savez(path.with_suffix(".npz"), **feeds)
    command = [QEMU, "-cpu", "Haswell", sys.executable, "-P", SESSION, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"{index:04}.out.npz")) for index in range(len(cases))]


class Layer:
    """A random layer on codes: float inputs, their QuantizeLinear, and the layer."""

    def __init__(self, seed: int, op: str, data: type, weight: type) -> None:
        self.random = np.random.default_rng(seed)
        self.op, self.data, self.weight = op, data, weight
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, np.ndarray] = {}
        (self.convolution if "Conv" in op else self.gemm if "Gemm" in op else self.product)()

    def constant(self, array) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, op: str, *operands: str, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        domain = "com.microsoft" if op in ("QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul") else ""
        self.nodes.append(
            helper.make_node(op, list(operands), [name], name=f"node {name}", domain=domain, **attributes)
        )
        return name

    def codes(self, shape, element) -> np.ndarray:
        limits = np.iinfo(element)
        if self.random.integers(4):
            return self.random.integers(limits.min, limits.max + 1, shape).astype(element)
        return self.random.choice([limits.min, limits.max], shape).astype(element)

    def computed(self, shape, element) -> tuple[str, str, str]:
        """Codes that the network computes from an input, their scale and zero point."""
        zero, scale = (int(self.random.integers(200)) if element is np.uint8 else 0), np.float32(0.03125)
        name = f"x{len(self.inputs)}"
        self.feeds[name] = (self.codes(shape, element).astype(np.float32) - zero) * scale
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [int(size) for size in shape]))
        grid = self.constant(scale), self.constant(np.asarray(zero, element))
        return self.node("QuantizeLinear", name, *grid), *grid

    def stored(self, shape, axis: int) -> tuple[str, str, str, np.ndarray]:
        """Constant codes of a weight, their scale and zero point, and the scale's values."""
        channels = [shape[axis]] if self.random.integers(2) and "Integer" not in self.op else []
        scale = np.exp2(-self.random.integers(5, 8, channels)).astype(np.float32)
        zero = np.full(channels, 0 if self.weight is np.int8 else 128, self.weight)
        return self.constant(self.codes(shape, self.weight)), self.constant(scale), self.constant(zero), scale

    def dequantized(self, codes: str, scale: str, zero: str, axis: int) -> str:
        return self.node("DequantizeLinear", codes, scale, zero, axis=axis)

    def grid_of_result(self, inner: int) -> tuple[str, str]:
        zero = np.asarray(100 if self.data is np.uint8 else 0, self.data)
        return self.constant(np.float32(0.03 * np.sqrt(inner))), self.constant(zero)

    def bias(self, length: int) -> str:
        return self.constant(self.random.integers(-3000, 3000, length).astype(np.int32))

    def finish(self, result: str, kind: int) -> None:
        self.element = kind
        self.output = helper.make_tensor_value_info(result, kind, None)

    def quantized(self, result: str, inner: int, always: bool) -> None:
        """What quantizers read of a layer between DequantizeLinear and QuantizeLinear."""
        if always or self.random.integers(2):
            scale, zero = self.grid_of_result(inner)
            codes = self.node("QuantizeLinear", result, scale, zero)
            result = self.node("DequantizeLinear", codes, scale, zero)
        self.finish(result, TensorProto.FLOAT)

    def convolution(self) -> None:
        random, rank = self.random, int(self.random.integers(1, 4))
        groups, inner, outer = (int(n) for n in random.integers(1, (4, 9, 9)))
        if not random.integers(4):
            groups, inner, outer = int(random.integers(1, 5)), 1, int(random.integers(1, 3))
        kernel = tuple(int(k) for k in random.integers(1, 4, rank))
        attributes = {
            "group": groups,
            "pads": [int(p) for p in random.integers(0, 2, 2 * rank)],
            "strides": [int(s) for s in random.integers(1, 3, rank)],
            "dilations": [int(d) for d in random.integers(1, 3, rank)],
        }
        data = self.computed((int(random.integers(1, 3)), groups * inner, *random.integers(5, 9, rank)), self.data)
        *weight, scale = self.stored((groups * outer, inner, *kernel), 0)
        size = inner * int(np.prod(kernel))
        if self.op == "ConvInteger":
            self.finish(self.node(self.op, data[0], weight[0], data[2], weight[2], **attributes), TensorProto.INT32)
        elif self.op == "QLinearConv":
            result = self.node(
                self.op, *data, *weight, *self.grid_of_result(size), self.bias(groups * outer), **attributes
            )
            self.finish(result, TensorProto.UINT8 if self.data is np.uint8 else TensorProto.INT8)
        else:
            bias = self.bias(groups * outer), self.constant(scale / 32), self.constant(np.zeros(scale.shape, np.int32))
            operands = (self.dequantized(*data, 1), self.dequantized(*weight, 0), self.dequantized(*bias, 0))
            self.quantized(self.node(self.op, *operands, **attributes), size, always=True)

    def gemm(self) -> None:
        (rows, inner, columns), (first, second) = self.random.integers(1, 70, 3), self.random.integers(0, 2, 2)
        data = self.computed((inner, rows) if first else (rows, inner), self.data)
        *weight, scale = self.stored((columns, inner) if second else (inner, columns), 0 if second else 1)
        attributes = {"transA": int(first), "transB": int(second), "alpha": 1.0}
        bias = self.bias(columns)
        if self.op == "QGemm":
            grid = self.grid_of_result(inner) if self.random.integers(2) else ()
            kind = TensorProto.UINT8 if self.data is np.uint8 else TensorProto.INT8
            self.finish(
                self.node(self.op, *data, *weight, bias, *grid, **attributes), kind if grid else TensorProto.FLOAT
            )
        else:
            rest = self.constant(scale / 32), self.constant(np.zeros(scale.shape, np.int32))
            operands = self.dequantized(*data, 1), self.dequantized(*weight, 0 if second else 1)
            result = self.node(self.op, *operands, self.dequantized(bias, *rest, 0), beta=1.0, **attributes)
            self.quantized(result, inner, always=False)

    def product(self) -> None:
        random = self.random
        rows, inner, columns = (int(n) for n in random.integers(1, 70, 3))
        batch = [((), ()), ((3,), ()), ((2, 1), (3,)), ((2, 3), (2, 3))][int(random.integers(4))]
        data = self.computed((*batch[0], rows, inner), self.data)
        shape = (*batch[1], inner, columns)
        if batch[1] or (random.integers(2) and self.op != "DynamicQuantizeMatMul"):
            weight, axis = self.computed(shape, self.weight), 1
        else:
            *weight, _ = self.stored(shape, 1)
            axis = len(shape) - 1
        if self.op == "MatMulInteger":
            self.finish(self.node(self.op, data[0], weight[0], data[2], weight[2]), TensorProto.INT32)
        elif self.op == "MatMulIntegerToFloat":
            operands = data[0], weight[0], data[1], weight[1], data[2], weight[2]
            self.finish(self.node(self.op, *operands), TensorProto.FLOAT)
        elif self.op == "DynamicQuantizeMatMul":
            self.finish(self.node(self.op, self.inputs[0].name, *weight), TensorProto.FLOAT)
        elif self.op == "QLinearMatMul":
            kind = TensorProto.UINT8 if self.data is np.uint8 else TensorProto.INT8
            self.finish(self.node(self.op, *data, *weight, *self.grid_of_result(inner)), kind)
        else:
            result = self.node(self.op, self.dequantized(*data, 1), self.dequantized(*weight, axis))
            self.quantized(result, inner, always=False)

    def file(self) -> bytes:
        graph = helper.make_graph(self.nodes, "layer", self.inputs, [self.output], self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


UNSIGNED, SIGNED = np.uint8, np.int8
EVERY = [(UNSIGNED, SIGNED), (UNSIGNED, UNSIGNED), (SIGNED, SIGNED), (SIGNED, UNSIGNED)]
"""Element types of data and weight."""
OPERATORS = {
    "Conv": EVERY[:3],
    "Gemm": EVERY[:3],
    "MatMul": EVERY[:3],
    "QLinearConv": EVERY[:3],
    "QLinearMatMul": EVERY[:3],
    "QGemm": EVERY[:3],
    "ConvInteger": EVERY,
    "MatMulInteger": EVERY,
    "MatMulIntegerToFloat": EVERY[:3],
    "DynamicQuantizeMatMul": EVERY[:2],
}
"""Layers and the element types that ONNX Runtime's kernels take."""


CASES = {
    (op, pair, seed): Layer(seed, op, *pair) for op, pairs in OPERATORS.items() for pair in pairs for seed in range(24)
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict:
    """The output of every layer on the emulated CPU: one start of the emulator serves all."""
    cases = [(layer.file(), layer.feeds, {}) for layer in CASES.values()]
    found = emulated(tmp_path_factory.mktemp("layers"), cases)
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("op", OPERATORS)
def test_layers_give_the_codes_of_the_saturating_reference(outputs, op: str) -> None:
    clipped = codes = 0
    for key, layer in CASES.items():
        if key[0] != op:
            continue
        ((name, found),) = outputs[key].items()
        module = qir.load(layer.file())
        wanted, exact = (
            IntegerReference(module, saturating=mode).run(layer.feeds).outputs[name] for mode in (True, False)
        )
        np.testing.assert_allclose(
            found, wanted, rtol=1e-6 if layer.element == TensorProto.FLOAT else 0, err_msg=str(key)
        )
        clipped, codes = clipped + int((wanted != exact).sum()), codes + found.size
    assert clipped > codes / 50


@pytest.mark.parametrize(("weights", "saturating"), [("auto", False), ("int8", True)])
def test_an_exported_lenet_gives_every_code_of_its_reference(tmp_path, weights: str, saturating: bool) -> None:
    images = np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    module = qir.load(LENET)
    pipeline = parse_pipeline("fold-batchnorm,insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=images))
    written = qir.load(export(module, tmp_path / "lenet.quant.onnx", data=images, weights=weights).model)
    feeds = {written.graph.inputs[0].name: images}
    (found,) = emulated(tmp_path, [(to_bytes(expose_codes(written)), feeds, {})])
    wanted = IntegerReference(written, saturating=saturating).run(feeds)
    exact = IntegerReference(written).run(feeds)
    codes = {name: array for name, array in wanted.codes.items() if name in found}
    assert sum(array.size for array in codes.values()) > 100_000
    assert {name: int((array != found[name]).sum()) for name, array in codes.items()} == dict.fromkeys(codes, 0)
    assert any((array != exact.codes[name]).any() for name, array in codes.items()) == saturating
