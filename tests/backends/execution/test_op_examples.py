"""Every example of the op registry through ONNX Runtime and through its torch lowering."""

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.backends.torch.ops import LOWERINGS
from qir.graph import Graph, Node
from qir.module import Module
from qir.onnx_io import to_proto
from qir.ops import entries, infer, lookup
from qir.tensor import Tensor
from qir.types import TensorType

CASES = {
    f"{name}-{since}-{example.label or index}": (key, example)
    for key, entry in entries().items()
    for name, since in [key[1:]]
    for index, example in enumerate(entry.examples)
}


def built(key, example, arrays):
    graph = Graph("example")
    operands = []
    for index, (operand, array) in enumerate(zip(example.operands, arrays, strict=True)):
        if operand is None:
            operands.append(None)
        elif operand.is_constant:
            operands.append(graph.add_constant(f"c{index}", Tensor.of(array)))
        else:
            tensor = Tensor.of(array)
            operands.append(graph.add_input(f"x{index}", TensorType(tensor.dtype, tensor.shape)))
    node = graph.insert(Node(key[1], operands, example.results, domain=key[0], attributes=example.attributes))
    graph.set_outputs(node.results)
    module = Module(graph, opsets={"": example.opset}, ir_version=10)
    for result, type_ in zip(node.results, infer(node, module), strict=True):
        result.type = type_
    return module


@pytest.mark.parametrize("name", CASES)
def test_torch_computes_what_onnx_runtime_computes(name):
    key, example = CASES[name]
    generator = np.random.default_rng(7)
    arrays = [None if operand is None else operand.array(generator) for operand in example.operands]
    module = built(key, example, arrays)
    feeds = {v.name: arrays[int(v.name[1:])] for v in module.graph.inputs}
    if key[1].endswith("Integer"):  # kernels of CPUs without VNNI clip sums of products
        wanted = ReferenceEvaluator(to_proto(module)).run(None, feeds)
    else:
        wanted = list(OrtSession(module, optimization="disable").run(feeds).values())
    with torch.no_grad():
        found = TorchModule(module)(*(torch.from_numpy(np.asarray(a)) for a in feeds.values()))
    (node,) = module.graph.nodes
    for made, true, result in zip(found, wanted, node.results, strict=True):
        made = made.numpy()
        assert made.shape == np.shape(true)
        assert made.dtype == np.asarray(true).dtype
        if made.dtype.kind == "f":
            np.testing.assert_allclose(made, true, rtol=2e-5, atol=3e-6)
        else:
            np.testing.assert_array_equal(made, true)
        assert isinstance(result.type, TensorType), "every op of the registry has an inferred type"
        assert result.type.dtype.label == str(np.asarray(true).dtype)
        if result.type.shape is not None:
            assert len(result.type.shape) == np.ndim(true)
            assert all(not isinstance(d, int) or d == n for d, n in zip(result.type.shape, np.shape(true), strict=True))


def test_lowerings_are_keyed_like_the_registry():
    lowered = set(LOWERINGS)
    known = {key for key, entry in entries().items() if not (entry.is_random or entry.has_subgraphs) and key[0] == ""}
    assert lowered == known


def test_every_entry_that_is_lowered_has_an_example():
    assert [key for key, entry in entries().items() if key in LOWERINGS and not entry.examples] == []


def test_examples_show_the_version_that_they_stand_under():
    for (_, name, since), entry in entries().items():
        for example in entry.examples:
            found = lookup(Node(name, ()), {"": example.opset})
            assert found.schema is not None
            assert found.since_version >= since
            assert found.examples == entry.examples
