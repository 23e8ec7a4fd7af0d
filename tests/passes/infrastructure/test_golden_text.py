"""Golden text of passes: what a pass leaves of a small network, line by line.

`QIR_UPDATE_GOLDEN=1 pytest tests/passes/infrastructure/test_golden_text.py` writes the files anew; read
the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qir.backends import load_target
from qir.graph import Graph, Node
from qir.module import Module
from qir.passes import PassContext, PassManager, parse_pipeline
from qir.tensor import Tensor
from qir.text.printer import print_module
from qir.types import DType, TensorType

GOLDEN = Path(__file__).parent / "golden"
PIPELINES = {
    "fold-batchnorm": "fold-batchnorm",
    "insert-deployable": "fold-batchnorm,insert-fake-quant{input_widths=all}",
    "insert-qag": "fold-batchnorm,insert-fake-quant{placement=qag}",
    "insert-outputs": "fold-batchnorm,insert-fake-quant{placement=outputs}",
    "propagate-constraints": "fold-batchnorm,insert-fake-quant{input_widths=all},propagate-constraints",
    "eliminate-identities": "eliminate-identities,eliminate-dead-code",
}


def small_network() -> Module:
    """Conv → BatchNorm → Relu → Identity → Flatten → Gemm on exactly representable numbers."""
    graph = Graph("small")
    value = graph.add_input("image", TensorType(DType.FLOAT32, ("batch", 1, 4, 4)))
    shapes = {
        "conv.weight": (2, 1, 3, 3),
        "gamma": (2,),
        "beta": (2,),
        "mean": (2,),
        "var": (2,),
        "fc.weight": (3, 8),
        "fc.bias": (3,),
    }
    values = {
        name: graph.add_constant(name, Tensor.of(np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape) / 8))
        for name, shape in shapes.items()
    }
    steps = (
        ("Conv", ("conv.weight",), {"kernel_shape": (3, 3)}, (2, 2, 2)),
        ("BatchNormalization", ("gamma", "beta", "mean", "var"), {"epsilon": 1e-5}, (2, 2, 2)),
        ("Relu", (), {}, (2, 2, 2)),
        ("Identity", (), {}, (2, 2, 2)),
        ("Flatten", (), {}, (8,)),
        ("Gemm", ("fc.weight", "fc.bias"), {"transB": 1}, (3,)),
    )
    for op, operands, attributes, shape in steps:
        node = Node(op, (value, *(values[name] for name in operands)), name=op.lower(), attributes=attributes)
        value = graph.insert(node).result
        value.type = TensorType(DType.FLOAT32, ("batch", *shape))
    graph.set_outputs([value])
    return Module(graph, opsets={"": 18}, ir_version=8)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_text_after_a_pass_is_the_golden_one(name: str) -> None:
    module = small_network()
    context = PassContext(target=load_target("npu-148"))
    PassManager(parse_pipeline(PIPELINES[name])).run(module, context)
    text = print_module(module, constants="hash")
    file = GOLDEN / f"{name}.qir"
    if os.environ.get("QIR_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
