"""A builder of small ONNX models for the tests of passes."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qir


class Builder:
    """A small ONNX model, written node by node."""

    def __init__(self, dtype=np.float32, opset=17, ir_version=8):
        self.dtype, self.opset, self.ir_version = np.dtype(dtype), opset, ir_version
        self.nodes, self.constants, self.inputs = [], [], []
        self.random = np.random.default_rng(0)
        self.elem = helper.np_dtype_to_tensor_dtype(self.dtype)

    def input(self, name, shape):
        self.inputs.append(helper.make_tensor_value_info(name, self.elem, shape))
        return name

    def const(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array, self.dtype), name))
        return name

    def ints(self, name, values):
        if name not in {c.name for c in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def normal(self, name, *shape):
        return self.const(name, self.random.standard_normal(shape) * 0.5)

    def node(self, op, inputs, outputs=None, **attributes):
        if not isinstance(outputs, list):
            outputs = [outputs or f"{op.lower()}{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"n_{outputs[0]}", **attributes))
        return outputs[0]

    def bn(self, x, channels, name="bn", gamma=None, variance=None, mean=None, **attributes):
        self.const(f"{name}.gamma", self.random.uniform(-1.5, 1.5, channels) if gamma is None else gamma)
        self.normal(f"{name}.beta", channels)
        self.const(f"{name}.mean", self.random.standard_normal(channels) if mean is None else mean)
        self.const(f"{name}.var", self.random.uniform(0.2, 2, channels) if variance is None else variance)
        parameters = [f"{name}.{p}" for p in ("gamma", "beta", "mean", "var")]
        return self.node("BatchNormalization", [x, *parameters], **attributes)

    def module(self, folder, *outputs):
        infos = [helper.make_tensor_value_info(o, self.elem, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        path = folder / "in.onnx"
        onnx.save(model, path)
        return qir.load(path)


@pytest.fixture
def builder(tmp_path):
    """Builder(**options) with `module(*outputs)` bound to the test's folder."""

    class Bound(Builder):
        def module(self, *outputs):
            return super().module(tmp_path, *outputs)

    return Bound
