"""A small network with every kind of layer, calibrated, at any widths and schemes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, apply_policy, parse_pipeline
from qir.passes.constraints.propagate_constraints import FIXED
from qir.passes.parity.executors import ReferenceNetwork, executor

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
        bits = weight if node.source.is_constant else activation
        if FIXED not in node.node.metadata and bits in node.widths:
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
    return lambda module: ReferenceNetwork(module).run({"input": samples}).outputs


@pytest.fixture
def simulation(samples):
    """What the torch simulation of a network computes."""
    return lambda module: executor("torch", module).run({"input": samples}).outputs


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed + sum(shape)).normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)
    return values.astype(np.float32)


def conv(value: str, name: str, into: int, out: int, kernel: tuple[int, ...] = (3, 3), **attributes) -> tuple:
    parameters = {f"{name}.w": weight(out, into // attributes.get("group", 1), *kernel), f"{name}.b": weight(out)}
    return ("Conv", [value, *parameters], name, attributes, parameters)


def small(name: str, bounds: tuple[float, float] = (0, 6)) -> tuple[tuple[int, ...], list[tuple]]:
    """Shape of the input x and nodes (op, inputs, output, attributes, constants) of a network with an output y."""
    low, high = (np.float32(bound) for bound in bounds)
    last = conv("e", "y", 4, 2, (1, 1))
    networks = {
        "clipped addition": [
            conv("x", "a", 3, 4),
            conv("x", "c", 3, 4),
            ("Add", ["a", "c"], "d", {}, {}),
            ("Clip", ["d", "low", "high"], "e", {}, {"low": low, "high": high}),
            last,
        ],
        "two quantizers": [
            conv("x", "a", 3, 4, pads=[1] * 4),
            ("Relu", ["a"], "r", {}, {}),
            conv("r", "c", 4, 4, pads=[1] * 4),
            ("Add", ["a", "c"], "e", {}, {}),
            last,
        ],
        "shared weight": [
            ("Conv", ["x", "w"], "a", {"pads": [1] * 4}, {"w": weight(3, 3, 3, 3)}),
            ("Relu", ["a"], "r", {}, {}),
            ("Conv", ["r", "w"], "y", {"pads": [1] * 4}, {}),
        ],
        "many channels": [conv("x", "a", 3, 100), ("Relu", ["a"], "r", {}, {}), conv("r", "y", 100, 2, (1, 1))],
        "padding and slices": [
            conv("x", "a", 3, 2, (1, 1)),
            ("MaxPool", ["a"], "m", {"kernel_shape": [8, 8]}, {}),
            ("Pad", ["x", "pads"], "p", {}, {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
            ("Transpose", ["p"], "t", {"perm": [0, 1, 3, 2]}, {}),
            (
                "Slice",
                ["t", "from", "to", "axes", "steps"],
                "e",
                {},
                {
                    "from": np.array([-1, 0]),
                    "to": np.array([-100, 7]),
                    "axes": np.array([2, 3]),
                    "steps": np.array([-2, 1]),
                },
            ),
            conv("e", "b", 3, 2, (1, 1)),
            ("Add", ["m", "b"], "y", {}, {}),
        ],
        "depth to space": [
            conv("x", "a", 3, 16),
            ("Relu", ["a"], "r", {}, {}),
            ("DepthToSpace", ["r"], "d", {"blocksize": 2}, {}),
            ("MaxPool", ["d"], "e", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1}, {}),
            last,
        ],
        "dilated and strided": [
            conv("x", "a", 3, 4, dilations=[2, 1], strides=[1, 2], pads=[2, 1, 0, 1]),
            ("Relu", ["a"], "r", {}, {}),
            conv("r", "e", 4, 4, group=4, auto_pad="SAME_LOWER"),
            last,
        ],
        "averages": [
            conv("x", "a", 3, 4),
            ("Relu", ["a"], "r", {}, {}),
            ("AveragePool", ["r"], "p", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}, {}),
            conv("p", "c", 4, 4, (1, 1)),
            ("AveragePool", ["c"], "e", {"kernel_shape": [2, 2], "ceil_mode": 1, "count_include_pad": 1}, {}),
            last,
        ],
        "products": [
            conv("x", "a", 3, 4),
            ("Relu", ["a"], "r", {}, {}),
            conv("r", "c", 4, 4, (1, 1)),
            ("Mul", ["r", "r"], "m", {}, {}),
            ("Add", ["c", "m"], "e", {}, {}),
            last,
        ],
        "one dimension": [
            conv("x", "a", 3, 4, (3,), pads=[1, 1]),
            ("Relu", ["a"], "r", {}, {}),
            ("MaxPool", ["r"], "p", {"kernel_shape": [2], "strides": [2]}, {}),
            conv("p", "y", 4, 2, (2,)),
        ],
        "three dimensions": [
            conv("x", "a", 2, 4, (2, 3, 3), pads=[0, 1, 1, 1, 1, 1]),
            ("Relu", ["a"], "r", {}, {}),
            ("AveragePool", ["r"], "p", {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, {}),
            conv("p", "y", 4, 2, (1, 1, 1)),
        ],
        "attention": [
            ("MatMul", ["x", "k.w"], "k", {}, {"k.w": weight(6, 4)}),
            ("MatMul", ["x", "q.w"], "q", {}, {"q.w": weight(6, 4, seed=1)}),
            ("Transpose", ["k"], "kt", {"perm": [0, 2, 1]}, {}),
            ("MatMul", ["q", "kt"], "s", {}, {}),
            ("MatMul", ["s", "q"], "y", {}, {}),
        ],
        "rows": [
            ("Flatten", ["x"], "f", {}, {}),
            ("MatMul", ["f", "a.w"], "a", {}, {"a.w": weight(48, 20)}),
            ("Relu", ["a"], "r", {}, {}),
            ("Gemm", ["r", "b.w", "b.b"], "b", {}, {"b.w": weight(20, 12), "b.b": weight(12)}),
            ("Reshape", ["b", "shape"], "t", {}, {"shape": np.array([-1, 3, 4])}),
            ("Concat", ["t", "t"], "c", {"axis": 2}, {}),
            ("MatMul", ["c", "d.w"], "y", {}, {"d.w": weight(8, 3)}),
        ],
        "transposed convolution": [
            conv("x", "a", 3, 4),
            ("Relu", ["a"], "r", {}, {}),
            (
                "ConvTranspose",
                ["r", "t.w", "t.b"],
                "t",
                {"strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0], "group": 2},
                {"t.w": weight(4, 2, 3, 3), "t.b": weight(4)},
            ),
            ("Relu", ["t"], "e", {}, {}),
            last,
        ],
        "islands": [
            conv("x", "a", 3, 4),
            ("Relu", ["a"], "e", {}, {}),
            last,
        ],
    }
    shapes = {"one dimension": (3, 12), "three dimensions": (2, 4, 6, 6), "attention": (5, 6), "rows": (3, 4, 4)}
    return shapes.get(name, (3, 8, 8)), networks[name]


def island_nodes() -> list[onnx.NodeProto]:
    """A Softmax over channels, then an If on its largest value."""
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["soft"], [f"{op}.out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}.out", TensorProto.FLOAT, None)],
        )
        for op in ("Neg", "Abs")
    ]
    return [
        helper.make_node("Softmax", ["y"], ["soft"], name="soft.node", axis=1),
        helper.make_node("ReduceMax", ["soft"], ["largest"], name="largest.node", keepdims=0),
        helper.make_node("Greater", ["largest", "half"], ["flag"], name="flag.node"),
        helper.make_node("If", ["flag"], ["z"], name="if.node", then_branch=branches[0], else_branch=branches[1]),
    ]


@pytest.fixture(scope="session")
def small_network():
    """Factory: (name, options) → (calibrated network, feeds of four samples)."""

    def make(name: str, *, bounds=(0, 6), more="infer-types", widths=None):
        shape, parts = small(name, bounds)
        nodes, constants, result = [], {}, "y"
        for op, inputs, output, attributes, held in parts:
            nodes.append(helper.make_node(op, inputs, [output], name=f"{output}.node", **attributes))
            constants |= held
        if name == "islands":
            nodes, constants, result = [*nodes, *island_nodes()], constants | {"half": np.float32(0.5)}, "z"
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
        )
        module = qir.load(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        )
        data = np.random.default_rng(3).normal(size=(4, *shape)).astype(np.float32)
        pipeline = parse_pipeline(f"infer-types,insert-fake-quant,calibrate{{method=minmax}},{more}")
        PassManager(pipeline).run(module, PassContext(calibration_data=data))
        if widths is not None:
            set_widths(module, *widths)
        return module, {"x": data}

    return make


@pytest.fixture(scope="session")
def reader():
    """The module `examples/read_guide.py`."""
    path = Path(__file__).parents[3] / "examples" / "read_guide.py"
    spec = importlib.util.spec_from_file_location("read_guide", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
