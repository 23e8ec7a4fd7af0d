"""Canonicalization of networks that others wrote: those of the `onnx` wheel, and shipped ones."""

from pathlib import Path

import onnx
import pytest

import qir
from qir.backends.execution.random_feed import random_feed
from qir.errors import PassError
from qir.passes import run_passes
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.canonicalize import SIMPLIFY

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
MODELS = sorted([*(DATA / "light").glob("*.onnx"), *DATA.glob("[ps]*/*/model.onnx")])


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_models_of_the_onnx_wheel(path):
    module = qir.load(path)
    try:
        inputs = random_feed(module, samples=2, unknown=2)
        before = run_onnxruntime(module, inputs)
    except PassError as error:
        before = None
        reason = str(error)
    run_passes(module, SIMPLIFY)
    if before is None:
        pytest.skip(f"verified, not compared: {reason[:80]}")
    assert largest_error(before, run_onnxruntime(module, inputs)) < 1e-4


@pytest.mark.parametrize(("name", "nodes"), [("lenet", 11), ("residual", 22), ("resnet-20", 52)])
def test_shipped_networks_have_no_batchnorm_left(name, nodes):
    from qir.models import shipped

    module = qir.load(shipped.path(name))
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    run_passes(module, SIMPLIFY)
    assert "BatchNormalization" not in {node.op for node in module.graph}
    assert len(module.graph) <= nodes
    assert largest_error(before, run_onnxruntime(module, inputs)) < 1e-5
