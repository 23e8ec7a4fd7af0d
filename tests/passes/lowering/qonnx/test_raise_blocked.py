"""Weights with blocks of scales come back from our files, from ONNX's blocks and from ONNX Runtime's MatMulNBits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.fake_quant import FakeQuant, quantizers
from qir.passes import PassContext, export, raise_quantized, run_passes
from qir.passes.parity.executors import executor

FLOAT = TensorProto.FLOAT


def module_of(nodes, constants, shape, output, *, opset=21, domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, output)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return qir.load(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


@pytest.mark.parametrize("opset", [17, 21])
def test_our_files_with_blocks(tmp_path, opset):
    random = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in (("a.weight", (12, 10, 3, 3)), ("a.bias", (12,)), ("fc.weight", (5, 12)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["c"], name="a"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight"], ["y"], name="fc", transB=1),
    ]
    module = module_of(nodes, constants, ["N", 10, 6, 6], ["N", 5], opset=opset)
    x = random.normal(size=(8, 10, 6, 6)).astype(np.float32)
    text = "infer-types,insert-fake-quant{block=4,weight_widths=4,activation_widths=8},calibrate{method=minmax}"
    run_passes(module, text, data=x)
    report = export(module, tmp_path / "m.quant.onnx", data=x)
    context = PassContext()
    raised = raise_quantized(qir.load(report.model), context)
    assert not context.reports["raise-quantized"].left
    before, after = quantizers(module.graph), quantizers(raised.graph)
    assert set(before) == set(after)
    for name in ("a.weight", "fc.weight"):
        assert after[name].bits == before[name].bits
        assert after[name].granularity == before[name].granularity
    np.testing.assert_array_equal(*(executor("torch", each).run({"x": x}).outputs["y"] for each in (module, raised)))


@pytest.mark.parametrize(("signed", "zeros"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("axis", [0, 1])
def test_dequantize_linear_in_blocks(signed, zeros, axis):
    random = np.random.default_rng(1)
    shape, block = (8, 6), 3 if axis else 4
    counts = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
    low, high = (-8, 8) if signed else (0, 16)
    dtype = TensorProto.INT4 if signed else TensorProto.UINT4
    constants = [
        helper.make_tensor("w_quantized", dtype, shape, random.integers(low, high, shape).reshape(-1)),
        numpy_helper.from_array(random.uniform(0.05, 0.3, counts).astype(np.float32), "s"),
    ]
    if zeros:
        constants.append(helper.make_tensor("z", dtype, counts, random.integers(3, 12, counts).reshape(-1)))
    operands = ["w_quantized", "s", *(["z"] if zeros else [])]
    nodes = [
        helper.make_node("DequantizeLinear", operands, ["w"], axis=axis, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="fc"),
    ]
    module = module_of(nodes, constants, [5, 8], [5, 6])
    x = random.normal(size=(5, 8)).astype(np.float32)
    expected = OrtSession(module, optimization="disable").run({"x": x})["y"]
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    assert [node.op for node in module.graph] == ["fake_quant", "MatMul"]
    (node,) = module.graph.fake_quants()
    assert (FakeQuant(node).bits, FakeQuant(node).granularity.axis, FakeQuant(node).granularity.size) == (
        4,
        axis,
        block,
    )
    np.testing.assert_allclose(executor("torch", module).run({"x": x}).outputs["y"], expected, rtol=0, atol=1e-5)
    TorchModule(module)


def packed(codes, bits):
    """Codes [rows, a multiple of 8 / bits] as bytes, the lowest bits first."""
    parts = codes.reshape(len(codes), -1, 8 // bits).astype(np.uint8)
    return (parts << np.arange(0, 8, bits, dtype=np.uint8)).sum(axis=-1).astype(np.uint8)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_matmul_nbits(bits, zeros, biased):
    random = np.random.default_rng(2)
    rows, columns, block = 64, 5, 16
    blocks = rows // block
    arrays = {
        "b": packed(random.integers(0, 2**bits, (columns, rows)), bits).reshape(columns, blocks, -1),
        "s": random.uniform(0.01, 0.1, (columns, blocks)).astype(np.float32),
        "z": packed(random.integers(1, 2**bits - 1, (columns, blocks)), bits),
        "bias": random.normal(size=columns).astype(np.float32),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    operands = ["x", "b", "s", "z" if zeros else "", "", "bias" if biased else ""]
    while not operands[-1]:
        operands.pop()
    node = helper.make_node(
        "MatMulNBits",
        operands,
        ["y"],
        domain="com.microsoft",
        name="fc",
        K=rows,
        N=columns,
        bits=bits,
        block_size=block,
    )
    module = module_of([node], constants, [3, rows], [3, columns], domains=["com.microsoft"])
    x = random.normal(size=(3, rows)).astype(np.float32)
    expected = OrtSession(module).run({"x": x})["y"]
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    assert "com.microsoft" not in module.opsets
    assert [node.op for node in module.graph] == ["fake_quant", "MatMul", *(["Add"] if biased else [])]
    (quantizer,) = module.graph.fake_quants()
    assert (
        FakeQuant(quantizer).bits,
        FakeQuant(quantizer).granularity.axis,
        FakeQuant(quantizer).granularity.size,
    ) == (
        bits,
        0,
        block,
    )
    np.testing.assert_allclose(executor("torch", module).run({"x": x}).outputs["y"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("dtype", "bits"), [("INT4", 4), ("UINT4", 4), ("UINT8", 4), ("UINT8", 8)])
def test_gather_from_blocks(dtype, bits, zeros):
    random, block, shape = np.random.default_rng(4), 16, (6, 48)
    counts = shape[0], shape[1] // block
    low, high = (-8, 8) if dtype == "INT4" else (0, 2**bits)
    codes, points = random.integers(low, high, shape), random.integers(low + 1, high - 1, counts)
    if dtype == "UINT8":
        padded = np.pad(points, [(0, 0), (0, 1)]) if bits == 4 else points
        constants = [
            numpy_helper.from_array(packed(codes, bits), "d"),
            numpy_helper.from_array(packed(padded, bits), "z"),
        ]
    else:
        kind = getattr(TensorProto, dtype)
        constants = [helper.make_tensor("d", kind, shape, codes.reshape(-1))]
        constants.append(helper.make_tensor("z", kind, counts, points.reshape(-1)))
    constants.append(numpy_helper.from_array(random.uniform(0.01, 0.1, counts).astype(np.float32), "s"))
    constants.append(numpy_helper.from_array(np.array([0, 3, 5, 1], np.int64), "i"))
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block} | (
        {"bits": bits} if dtype == "UINT8" else {}
    )
    operands = ["d", "i", "s", *(["z"] if zeros else [])]
    nodes = [
        helper.make_node("GatherBlockQuantized", operands, ["e"], domain="com.microsoft", name="table", **attributes),
        helper.make_node("Add", ["x", "e"], ["y"]),
    ]
    module = module_of(nodes, constants, [4, 48], [4, 48], domains=["com.microsoft"])
    x = random.normal(size=(4, 48)).astype(np.float32)
    expected = OrtSession(module).run({"x": x})["y"]
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    (quantizer,) = module.graph.fake_quants()
    assert (
        FakeQuant(quantizer).bits,
        FakeQuant(quantizer).granularity.axis,
        FakeQuant(quantizer).granularity.size,
    ) == (
        bits,
        1,
        block,
    )
    np.testing.assert_array_equal(executor("torch", module).run({"x": x}).outputs["y"], expected)


@pytest.mark.named_nodes
def test_reordered_rows_are_left_with_a_reason():
    random = np.random.default_rng(3)
    arrays = {
        "b": random.integers(0, 255, (4, 2, 8)).astype(np.uint8),
        "s": np.ones((4, 2), np.float32),
        "g": np.zeros(32, np.int32),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s", "", "g"],
        ["y"],
        domain="com.microsoft",
        name="fc",
        K=32,
        N=4,
        bits=4,
        block_size=16,
    )
    module = module_of([node], constants, [3, 32], [3, 4], domains=["com.microsoft"])
    context = PassContext()
    raise_quantized(module, context)
    assert "reordered" in context.reports["raise-quantized"].left["fc"]
