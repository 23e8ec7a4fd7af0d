from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import quantizers
from qir.onnx_io import files
from qir.passes import PassContext, PassManager, apply_policy, export, parse_pipeline
from qir.passes.constraints.propagate_constraints import FIXED
from qir.passes.lowering.lower_qcdq import LowerQcdq

ROOT = Path(__file__).resolve().parent.parent

NODE_NAMES = {"none": "", "equal": "node"}
"""What `--node-names` calls every node of the networks that the tests read."""

QUANTIZERS = {"fake_quant", "QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "MultiThreshold", "Trunc"}


def pytest_addoption(parser):
    parser.addoption(
        "--node-names",
        choices=["own", *NODE_NAMES],
        default="own",
        help="run every test on networks whose nodes have no names, or all one: nothing but printed names may change",
    )


def pytest_configure(config):
    choice = config.getoption("--node-names")
    if choice != "own":
        read = files._load
        files._load = lambda *args: renamed(read(*args), NODE_NAMES[choice])


def pytest_collection_modifyitems(config, items):
    choice = config.getoption("--node-names")
    if choice != "own":
        for item in items:
            marker = item.get_closest_marker("named_nodes")
            if marker and choice in (marker.args or NODE_NAMES):
                item.add_marker(pytest.mark.skip(reason="needs the names that the nodes have in their files"))


def renamed(module: qir.Module, name: str) -> qir.Module:
    """The module with every node called `name`, but for quantizers, which policies and raising know by name."""
    for graph in (module.graph, *(function.graph for function in module.functions.values())):
        for node in graph.walk():
            if node.op not in QUANTIZERS:
                node.name = name
    return module


CALIBRATED: dict[tuple, qir.Module] = {}
"""Random networks that were calibrated already, by what they were made from."""


class Network:
    """A random network, grown node by node: convolutions, depthwise, residual, concatenation, pooling, Gemm."""

    def __init__(self, seed: int, *, size: int = 12, blocks: int = 4, channels: int = 6, first: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.channels, self.size = 3, size
        self.input_shape = (3, size, size)
        value = self.conv("input", first or int(self.random.integers(3, channels + 1)), kernel=3)
        kinds = self.random.permutation(
            ["conv", "depthwise", "residual", "concat", "max", "average", "grouped", "upsample"]
        )
        for kind in kinds[:blocks]:
            value = self.block(str(kind), value)
        value = self.op(
            "GlobalAveragePool" if seed % 2 else "MaxPool",
            value,
            **({} if seed % 2 else {"kernel_shape": [self.size, self.size]}),
        )
        value = self.op("Flatten", value)
        value = self.op("Relu", self.gemm(value, self.channels, 9))
        self.output = self.gemm(value, 9, 5)

    def name(self) -> str:
        return f"n{len(self.nodes)}"

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = self.name()
        self.nodes.append(
            helper.make_node(kind, list(inputs), [f"{name}_out"], name=f"{name}_{kind.lower()}", **attributes)
        )
        return f"{name}_out"

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int) -> str:
        scale = np.exp(self.random.normal(0, 0.5, (shape[0], *(1,) * (len(shape) - 1))))
        return self.constant((self.random.normal(size=shape) * scale / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def conv(self, value: str, out: int, *, kernel: int = 3, group: int = 1, stride: int = 1, relu: bool = True) -> str:
        weight = self.normal(out, self.channels // group, kernel, kernel)
        bias = self.constant(self.random.normal(size=out).astype(np.float32) * np.float32(0.2))
        pads = [kernel // 2] * 4
        value = self.op(
            "Conv", value, weight, bias, kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2, group=group
        )
        self.channels, self.size = out, (self.size + 2 * (kernel // 2) - kernel) // stride + 1
        return self.op("Relu", value) if relu else value

    def gemm(self, value: str, width: int, out: int) -> str:
        bias = self.constant(self.random.normal(size=out).astype(np.float32) * np.float32(0.2))
        return self.op("Gemm", value, self.normal(out, width), bias, transB=1)

    def block(self, kind: str, value: str) -> str:
        if kind == "conv":
            return self.conv(value, int(self.random.integers(3, 9)), kernel=int(self.random.choice([1, 3])))
        if kind == "depthwise":
            return self.conv(value, self.channels, group=self.channels)
        if kind == "grouped":
            return self.conv(self.conv(value, 6, kernel=1), 4, group=2)
        if kind == "residual":
            branch = self.conv(value, self.channels, relu=False)
            summed = self.op("Add", branch, value)
            return self.op("Relu", summed) if self.random.integers(2) else summed
        if kind == "concat":
            before = self.channels
            first = self.conv(value, 4)
            self.channels = before
            second = self.conv(value, 3, kernel=1)
            self.channels = 7
            return self.op("Concat", first, second, axis=1)
        if kind == "upsample":
            if self.size > 12:
                return value
            self.size *= 2
            scales = self.constant(np.array([1, 1, 2, 2], np.float32))
            return self.op(
                "Resize",
                value,
                "",
                scales,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        if self.size < 6:
            return value
        self.size = self.size // 2
        return self.op("MaxPool" if kind == "max" else "AveragePool", value, kernel_shape=[2, 2], strides=[2, 2])

    def module(self) -> qir.Module:
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *self.input_shape])],
            [helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["N", 5])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return qir.load(model.SerializeToString())

    def images(self, count: int, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(count, *self.input_shape)).astype(np.float32)


def quantized_module(network: Network) -> qir.Module:
    module = network.module()
    pipeline = parse_pipeline("insert-fake-quant{input_widths=all},calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=network.images(64, seed=7)))
    return module


def set_widths(module: qir.Module, weight: int, activation: int) -> None:
    policy = {}
    for name, node in quantizers(module.graph).items():
        bits = weight if node.source.is_constant else activation
        if FIXED not in node.node.metadata and bits in node.widths:
            policy[name] = bits
    apply_policy(module, policy)


@pytest.fixture
def at_every_width():
    """Factory: calibrated module → (weight bits, activation bits, module lowered to QCDQ) for all pairs from 1 to 8."""

    def every(module: qir.Module):
        for weight in range(1, 9):
            for activation in range(1, 9):
                lowered = module.clone()
                set_widths(lowered, weight, activation)
                PassManager([LowerQcdq()]).run(lowered, PassContext())
                yield weight, activation, lowered

    return every


@pytest.fixture
def random_network():
    """Factory: (seed, weight bits, activation bits, …) → (network, calibrated module)."""

    def make(seed: int, weight: int, activation: int, **options):
        network = Network(seed, **options)
        key = (seed, *sorted(options.items()))
        if key not in CALIBRATED:
            CALIBRATED[key] = quantized_module(network)
        module = CALIBRATED[key].clone()
        set_widths(module, weight, activation)
        return network, module

    return make


@pytest.fixture
def exported(random_network, tmp_path):
    """Factory: (seed, weight bits, activation bits, …) → (network, exported module, report)."""

    def make(seed: int, weight: int, activation: int, **options):
        network, module = random_network(seed, weight, activation, **options)
        report = export(module, tmp_path / f"s{seed}w{weight}a{activation}.quant.onnx", data=network.images(4))
        return network, qir.load(report.model), report

    return make


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Import a script of the repository by its path: what lies in tools/ and benchmarks/ belongs to no package."""

    def load(path: str) -> ModuleType:
        file = ROOT / path
        spec = importlib.util.spec_from_file_location(f"qir_script_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
