"""Whole networks of the papers: float execution in torch equals ONNX Runtime, types are complete, MACs are right."""

import numpy as np
import pytest
import torch

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.models.builders import builder_of, export_onnx
from qir.ops import infer_graph, op_of
from qir.types import TensorType, UnknownType

SHAPES = {
    "lenet": (1, 1, 28, 28),
    "lenet-5": (1, 1, 28, 28),
    "residual": (1, 3, 32, 32),
    "resnet-20": (1, 3, 32, 32),
    "mobilenet-v1": (1, 3, 64, 64),
    "mobilenet-v2": (1, 3, 64, 64),
    "lstm-text": (1, 24),
}


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / f"{request.param}.onnx"
    export_onnx(request.param, path, input_shape=SHAPES[request.param])
    return request.param, qir.load(path)


def test_torch_equals_onnx_runtime(exported):
    name, module = exported
    generator = np.random.default_rng(0)
    shape = (2, *SHAPES[name][1:])
    data = generator.integers(0, 50, shape) if builder_of(name).takes_tokens else generator.random(shape, np.float32)
    (feed,) = module.graph.inputs
    wanted = OrtSession(module, optimization="disable").run({feed.name: data})
    with torch.no_grad():
        found = TorchModule(module)(torch.from_numpy(data))
    for made, true in zip(found, wanted.values(), strict=True):
        np.testing.assert_allclose(made.numpy(), true, rtol=2e-4, atol=2e-5)


def test_every_type_is_inferred_again(exported):
    _, module = exported
    copy = module.clone()
    for node in copy.graph:
        for result in node.results:
            result.type = UnknownType()
    infer_graph(copy)
    known = {value.name: value.type for value in module.graph.values()}
    for node in copy.graph:
        for result in node.results:
            if result.name:
                assert isinstance(result.type, TensorType), node
                assert result.type.dtype is known[result.name].dtype


@pytest.mark.parametrize(
    ("name", "shape", "macs"),
    [
        ("mobilenet-v1", (1, 3, 224, 224), 568_740_352),
        ("resnet-18", (1, 3, 224, 224), 1_814_073_344),
    ],
)
def test_multiply_accumulates_of_the_papers(name, shape, macs, tmp_path):
    module = qir.load(export_onnx(name, tmp_path / "network.onnx", input_shape=shape))
    total = sum(op_of(node).macs(node, batch=1) for node in module.graph)
    assert total == macs
