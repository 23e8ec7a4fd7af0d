"""A small network with every kind of layer, calibrated, at any widths and schemes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, apply_policy, parse_pipeline
from qir.passes.constraints.propagate_constraints import FIXED
from qir.passes.parity.reference_outputs import reference_outputs, simulated

IMAGE = (3, 12, 12)


def build(opset: int = 21) -> qir.Module:
    """Convolution, max pooling, depthwise, residual, concatenation, average pooling, Gemm."""
    random = np.random.default_rng(0)
    constants, nodes = [], []

    def constant(name, *shape):
        values = random.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def op(kind, *inputs, name, **attributes):
        nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}.node", **attributes))
        return name

    def conv(name, value, out, into, *, kernel=3, group=1):
        parameters = constant(f"{name}.weight", out, into // group, kernel, kernel), constant(f"{name}.bias", out)
        return op("Conv", value, *parameters, name=name, pads=[kernel // 2] * 4, group=group)

    stem = op("Relu", conv("stem", "input", 8, 3), name="stem.relu")
    pooled = op("MaxPool", stem, name="pooled", kernel_shape=[2, 2], strides=[2, 2])
    for name, bound in (("zero", 0), ("six", 6)):
        constants.append(numpy_helper.from_array(np.float32(bound), name))
    depthwise = op("Clip", conv("depthwise", pooled, 8, 8, group=8), "zero", "six", name="depthwise.relu6")
    added = op("Add", conv("pointwise", depthwise, 8, 8, kernel=1), pooled, name="added")
    joined = op("Concat", added, conv("branch", pooled, 4, 8), name="joined", axis=1)
    flat = op("Flatten", op("GlobalAveragePool", joined, name="average"), name="flat")
    last = op("Gemm", flat, constant("last.weight", 5, 12), constant("last.bias", 5), name="last", transB=1)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)
    onnx.checker.check_model(model, full_check=True)
    return qir.load(model.SerializeToString())


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *IMAGE)).astype(np.float32)


def set_widths(module, weight, activation) -> None:
    policy = {}
    for name, node in quantizers(module.graph).items():
        bits = weight if node.operands[0].is_constant else activation
        if FIXED not in node.metadata and bits in node.attribute("widths"):
            policy[name] = bits
    apply_policy(module, policy)


@pytest.fixture(scope="session")
def samples():
    return images(16)


@pytest.fixture(scope="session")
def calibrated():
    """Factory of calibrated networks: (weight bits, activation bits, opset, options of insertion)."""
    made = {}

    def make(weight=8, activation=8, *, opset=21, widths="", **options):
        key = (opset, widths, *sorted(options.items()))
        if key not in made:
            module = build(opset)
            settings = {"input_widths": "all"} | (
                {"weight_widths": widths, "activation_widths": widths} if widths else {}
            )
            text = ",".join(f"{name}={value}" for name, value in (settings | options).items())
            pipeline = parse_pipeline(f"infer-types,insert-fake-quant{{{text}}},calibrate{{method=minmax}}")
            PassManager(pipeline).run(module, PassContext(calibration_data=images(64, seed=7)))
            made[key] = module
        module = made[key].clone()
        set_widths(module, weight, activation)
        return module

    return make


@pytest.fixture
def expected(samples):
    """What a calibrated network computes: (network) → integer reference, or simulation."""
    return lambda module: reference_outputs(module, {"input": samples})[1]


@pytest.fixture
def simulation(samples):
    """What the torch simulation of a network computes."""
    return lambda module: simulated(module, {"input": samples})
