"""Weights alone are quantized, and leave in blocks that ONNX Runtime multiplies with kernels of 2, 4 and 8 bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.integer.block_products import BlockWeight, float_sums, int8_block_sums
from qir.errors import ExportError, QirError
from qir.fake_quant import quantizers
from qir.packing import pack_rows, unpack_rows
from qir.passes import PassContext, export, raise_quantized, run_passes
from qir.passes.insertion.insert_fake_quant import InsertFakeQuant

KERNELS = {"MatMulNBits", "GatherBlockQuantized"}
STEPS = "insert-fake-quant{{activation_widths=float,block={block},weight_widths=2|4|8}},calibrate"


def network(length: int | str = 6) -> qir.Module:
    """An embedding of 40 x 64, MatMul, MatMul with bias and Relu, a product of activations, Gemm; ids [n, length]."""
    random = np.random.default_rng(0)

    def constant(name, *shape):
        return numpy_helper.from_array((random.normal(size=shape) / 8).astype(np.float32), name)

    shapes = {"table": (40, 64), "a": (64, 96), "b": (96, 64), "bias": (64,), "fc": (10, 64), "fc.bias": (10,)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embedding"),
        helper.make_node("MatMul", ["e", "a"], ["ea"], name="first"),
        helper.make_node("Relu", ["ea"], ["er"], name="relu"),
        helper.make_node("MatMul", ["er", "b"], ["eb"], name="second"),
        helper.make_node("Add", ["eb", "bias"], ["ebb"], name="add"),
        helper.make_node("Relu", ["ebb"], ["h"], name="relu2"),
        helper.make_node("Transpose", ["h"], ["ht"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["ht", "h"], ["square"], name="square"),
        helper.make_node("ReduceMean", ["square"], ["mean"], name="mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "fc", "fc.bias"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [constant(name, *shape) for name, shape in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return qir.load(model.SerializeToString())


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(0, 40, (5, 6))


@pytest.fixture(scope="module")
def calibrated(ids):
    return run_passes(network(), STEPS.format(block=32), data={"ids": ids})


def at(module: qir.Module, *bits: int) -> qir.Module:
    """A copy at widths in order of the quantizers, repeated."""
    copy = module.clone()
    for index, quantizer in enumerate(quantizers(copy.graph).values()):
        quantizer.bits = bits[index % len(bits)]
    return copy


@pytest.mark.named_nodes
def test_weights_alone_get_quantizers_and_products_of_activations_are_named():
    context = PassContext()
    module = network()
    context.run(InsertFakeQuant(activation_widths="float", block=32), module)
    assert all(quantizer.is_weight for quantizer in quantizers(module.graph).values())
    assert len(quantizers(module.graph)) == 4
    assert context.reports["insert-fake-quant"] == {
        "square": "both of its operands are computed: weights alone are quantized"
    }


def test_a_target_without_float_activations_says_so():
    with pytest.raises(QirError, match=r"target's activations have \[2, 4, 8\] bits: take a target with 32"):
        run_passes(network(), "insert-fake-quant{activation_widths=float}", target="npu-148")


def test_a_network_without_constant_weights_has_nothing_to_quantize():
    node = helper.make_node("MatMul", ["x", "x"], ["y"], name="square")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    with pytest.raises(QirError, match="no layer has constant weights, and activations stay float"):
        run_passes(qir.load(model.SerializeToString()), "insert-fake-quant{activation_widths=float}")


@pytest.mark.parametrize("profile", ["matmul-nbits", "qdq-int4", "qdq-int2"])
@pytest.mark.parametrize("bits", [(2,), (4,), (8,), (8, 2, 4)])
def test_every_product_becomes_a_kernel_of_its_width(calibrated, ids, tmp_path, profile, bits):
    module = at(calibrated, *bits)
    report = export(module, tmp_path / "m.quant.onnx", profile=profile, data={"ids": ids})
    ops = OrtSession(report.model).optimized_ops()
    assert ops.count("MatMulNBits") == 3, ops
    assert not {"MatMul", "Gemm", "FusedGemm"} & set(ops), "all but the product of activations, with Transpose fused"
    assert (report.reference, report.mismatches, report.session) == ("products", 0, ())
    proof = json.loads(report.guide.read_text())["proof"]
    assert (proof["reference"], proof["engine"], proof["mismatches"]) == ("products", "onnxruntime default", 0)
    raised = raise_quantized(qir.load(report.model))
    before, after = quantizers(module.graph), quantizers(raised.graph)
    assert [quantizer.bits for quantizer in after.values()] == [quantizer.bits for quantizer in before.values()]


def test_the_profile_writes_the_operators_themselves(calibrated, ids, tmp_path):
    report = export(at(calibrated, 4, 2, 8), tmp_path / "m.quant.onnx", profile="matmul-nbits", data={"ids": ids})
    nodes = [node for node in qir.load(report.model).graph if node.op in KERNELS]
    found = [(node.op, node.attribute("bits"), node.attribute("block_size")) for node in nodes]
    assert found == [
        ("GatherBlockQuantized", 4, 32),
        ("MatMulNBits", 2, 32),
        ("MatMulNBits", 8, 32),
        ("MatMulNBits", 4, 32),
    ]
    assert not report.emulated
    assert all(node.attribute("accuracy_level") == 4 for node in nodes[1:])
    assert [node.input(5) is not None for node in nodes[1:]] == [False, True, True], "biases go into the operator"


def test_what_a_weight_stands_for_is_what_the_file_computes(calibrated, ids, tmp_path):
    """At accuracy level 1 nothing is quantized as it runs: ONNX Runtime gives what the simulation gives."""
    from qir.passes.parity.executors import executor

    module = at(calibrated, 4, 2, 8)
    wanted = executor("torch", module).run({"ids": ids}).outputs["y"]
    report = export(module, tmp_path / "m.quant.onnx", profile="qdq-int2", data={"ids": ids})
    np.testing.assert_allclose(OrtSession(report.model).run({"ids": ids})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "bits", "message"),
    [
        ("block=24", 4, "blocks of 24 have no kernel at 4 bits: take 16, 32, 64, 128, 256"),
        ("block=16", 2, "blocks of 16 have no kernel at 2 bits: take 32, 64, 128"),
        ("block=32,weight_scheme=uniform-asymmetric", 4, "weight_scheme=uniform has none"),
    ],
)
def test_known_traps_are_refused_with_a_remedy(ids, tmp_path, options, bits, message):
    text = f"insert-fake-quant{{activation_widths=float,weight_widths={bits},{options}}},calibrate"
    module = run_passes(network(), text, data={"ids": ids})
    with pytest.raises(ExportError, match=message):
        export(module, tmp_path / "m.quant.onnx", profile="matmul-nbits", data={"ids": ids})


def test_activations_with_quantizers_are_refused_by_name(ids, tmp_path):
    module = run_passes(network(), "insert-fake-quant{block=32},calibrate", data={"ids": ids})
    with pytest.raises(ExportError, match="leaves activations float: insert-fake-quant"):
        export(module, tmp_path / "m.quant.onnx", profile="matmul-nbits", data={"ids": ids})


def products(bits: int, block: int, rows: int, *, length: int = 200, channels: int = 24, level: int = 4):
    """Rows, the weight, and what ONNX Runtime's MatMulNBits gives."""
    random = np.random.default_rng(bits * block + rows)
    blocks = -(-length // block)
    codes = random.integers(0, 1 << bits, (channels, blocks, block)).astype(np.uint8)
    scales = random.uniform(0.5, 1.5, (channels, blocks)).astype(np.float32)
    inputs = [numpy_helper.from_array(pack_rows(codes, bits), "codes"), numpy_helper.from_array(scales, "scales")]
    attributes = {"K": length, "N": channels, "bits": bits, "block_size": block, "accuracy_level": level}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, channels])],
        inputs,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = random.normal(size=(rows, length)).astype(np.float32)
    centred = codes.astype(np.int16) - (1 << (bits - 1))
    centred.reshape(channels, -1)[:, length:] = 0
    found = OrtSession(model.SerializeToString()).run({"x": x})["y"]
    return x, BlockWeight(centred, scales, length, 1 << (bits - 1)), found


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_reference_gives_what_onnx_runtime_gives_at_accuracy_level_4(bits, block, rows):
    x, weight, found = products(bits, block, rows)
    exact, in_float = int8_block_sums(x, weight), float_sums(x, weight)
    assert exact.holds(found).all() or in_float.holds(found).all(), "int8 blocks, or float on CPUs without the kernel"
    assert not (exact.holds(in_float.values).all()), "the two arithmetics are told apart"


def test_the_reference_gives_what_onnx_runtime_gives_at_accuracy_level_0():
    x, weight, found = products(4, 32, 3, level=0)
    assert float_sums(x, weight).holds(found).all()


def test_a_wrong_code_is_no_rounding():
    x, weight, _ = products(4, 32, 3)
    changed = weight.codes.copy()
    changed[0, 0, 0] += 1
    other = int8_block_sums(x, BlockWeight(changed, weight.scales, weight.length, weight.offset))
    assert not int8_block_sums(x, weight).holds(other.values)[:, 0].any()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_rows_of_codes_come_back(bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (3, 5, 16)).astype(np.uint8)
    packed = pack_rows(codes, bits)
    assert packed.shape == (3, 5, 2 * bits)
    np.testing.assert_array_equal(unpack_rows(packed, bits), codes)


@pytest.mark.named_nodes
def test_samples_give_the_sizes_that_costs_need_where_no_activation_is_calibrated(ids, tmp_path, monkeypatch):
    """A network of open length under a budget in milliseconds, with the times of a table."""
    monkeypatch.chdir(tmp_path)
    layers = ("first", "second", "head")
    cells = [f"{layer},{w},32,{time}" for layer in layers for w, time in ((2, 10), (4, 20), (8, 30), (32, 90))]
    cells.append("square,32,32,5")
    (tmp_path / "cpu-matmul-nbits.csv").write_text(
        "\n".join(["layer,weight_bits,activation_bits,delay", *cells]) + "\n"
    )
    done = qir.quantize(
        network("length"),
        target="cpu-matmul-nbits",
        data={"ids": ids},
        budgets={"latency": "0.065ms"},
        output="out/",
        compare=False,
    )
    assert done.result.costs["latency"] <= 65
    assert sorted(done.policy[f"{layer}.weight"] for layer in layers) in ([2, 4, 8], [4, 4, 4], [2, 2, 8])


def test_verify_computes_every_product_again(calibrated, ids, tmp_path, capsys):
    from qir.cli.verdict import print_products
    from qir.passes.exporting.products import check_products

    report = export(at(calibrated, 4, 2, 8), tmp_path / "m.quant.onnx", profile="matmul-nbits", data={"ids": ids})
    found = check_products(qir.load(report.model), [{"ids": ids}])
    assert (found.products, found.wrong) == (3, 0)
    assert found.elements == 30 * (96 + 64) + 5 * 10 + (96 + 64 + 10), "30 and 5 rows, and one row of each by itself"
    print_products(found)
    assert "3 products" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "microseconds"), [("1.5ms", 1500), ("0.002s", 2000), ("40us", 40)])
def test_a_budget_may_be_a_time(text, microseconds):
    from qir.errors import SearchError
    from qir.search import Budget

    budget = Budget.parse(text)
    assert budget.at_clock("latency", 1e6).maximum == pytest.approx(microseconds)
    with pytest.raises(SearchError, match="no clock_hz"):
        budget.at_clock("latency", None)
    with pytest.raises(SearchError, match="only latency is a time"):
        budget.at_clock("size", 1e6)
