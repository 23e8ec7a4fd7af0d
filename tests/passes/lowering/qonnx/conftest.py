from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.fake_quant import quantizers
from qir.passes import apply_policy, run_passes
from qir.passes.constraints.propagate_constraints import FIXED


class Network:
    """A small network with convolutions, depthwise, residual, pooling and Gemm, drawn by a seed."""

    def __init__(self, seed: int, *, size: int = 10, pooled: bool = True) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        width = int(self.random.integers(4, 8))
        y = self.op("Relu", self.conv("input", 3, width))
        branch = self.conv(y, width, width, group=width)
        y = self.op("Add", branch, y)
        y = self.op("Relu", y) if seed % 2 else y
        y = self.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
        y = self.op("Relu", self.conv(y, width, 6, kernel=1))
        if seed % 3 == 0:
            y = self.op("Concat", y, self.op("Relu", self.conv(y, 6, 3)), axis=1)
        features = (9 if seed % 3 == 0 else 6) * (size // 2) ** 2
        if pooled:
            y = self.op("GlobalAveragePool" if seed % 2 else "AveragePool", y, **self.pool(seed))
            features //= (size // 2) ** 2
            features *= 1 if seed % 2 else (size // 4) ** 2
        y = self.op("Flatten", y)
        y = self.op("Relu", self.gemm(y, features, 8, "hidden"))
        self.output = self.gemm(y, 8, 5, "last")
        self.shape = (3, size, size)

    @staticmethod
    def pool(seed: int) -> dict:
        return {} if seed % 2 else {"kernel_shape": [2, 2], "strides": [2, 2]}

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, array) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, *, kernel: int = 3, group: int = 1) -> str:
        name = f"conv{len(self.nodes)}"
        scale = np.exp(self.random.normal(0, 0.5, (outputs, 1, 1, 1)))
        weight = self.random.normal(size=(outputs, inputs // group, kernel, kernel)) * scale / kernel
        operands = [self.constant(f"{name}.weight", weight)]
        operands.append(self.constant(f"{name}.bias", self.random.normal(size=outputs) * 0.2))
        return self.op("Conv", x, *operands, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, group=group)

    def gemm(self, x: str, inputs: int, outputs: int, name: str) -> str:
        weight = self.constant(f"{name}.weight", self.random.normal(size=(outputs, inputs)) / np.sqrt(inputs))
        return self.op("Gemm", x, weight, self.constant(f"{name}.bias", self.random.normal(size=outputs)), transB=1)

    def module(self) -> qir.Module:
        shapes = {"input": ["N", *self.shape], self.output: ["N", 5]}
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        graph = helper.make_graph(self.nodes, "random", infos[:1], infos[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return qir.load(model.SerializeToString())

    def images(self, count: int = 4, seed: int = 1) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(count, *self.shape)).astype(np.float32)


ALL = "1|2|3|4|5|6|7|8"


def quantized(
    network: Network,
    weight: int = 8,
    activation: int = 8,
    *,
    weight_widths: str = ALL,
    activation_widths: str = ALL,
    options: str = "",
) -> qir.Module:
    module = network.module()
    given = f",{options}" if options else ""
    widths = f"weight_widths={weight_widths},activation_widths={activation_widths}{given}"
    pipeline = f"infer-types,insert-fake-quant{{input_widths=all,{widths}}},calibrate{{method=minmax}}"
    run_passes(module, pipeline, data=network.images(32, seed=7))
    free = {name: node for name, node in quantizers(module.graph).items() if FIXED not in node.node.metadata}
    chosen = {name: weight if node.source.is_constant else activation for name, node in free.items()}
    policy = {name: bits for name, bits in chosen.items() if bits in free[name].widths}
    apply_policy(module, policy)
    return module


@pytest.fixture
def quantized_network():
    """Factory: (seed, weight bits, activation bits, options of insertion, …) → (network, calibrated module)."""

    def make(seed: int, weight: int = 8, activation: int = 8, *, size: int = 10, pooled: bool = True, **options):
        network = Network(seed, size=size, pooled=pooled)
        return network, quantized(network, weight, activation, **options)

    return make


@pytest.fixture
def written(tmp_path):
    """Factory: module → (the file as ONNX reads it, as qir reads it), checked in full and inferred strictly."""

    def write(module):
        path = tmp_path / "written.onnx"
        qir.save(module, path)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
        return model, qir.load(path)

    return write


@pytest.fixture
def network():
    """A network of seed 1, not quantized."""
    return Network(1)
