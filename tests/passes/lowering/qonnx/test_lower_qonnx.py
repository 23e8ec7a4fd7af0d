from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.backends.execution.session import OrtSession
from qir.backends.qonnx.kernels import quant
from qir.backends.qonnx.reference import QonnxReference
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.graph import Value
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations
from qir.ops.families.qonnx import QONNX_DOMAIN
from qir.passes import PassContext, PassManager
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.parts.qonnx_forms import activation_form
from qir.passes.lowering.qonnx.lower_qonnx import LowerQonnx
from qir.quantizers import get_scheme


def lowered(module, *passes):
    made = module.clone()
    PassManager(list(passes)).run(made, PassContext())
    return made


def same_outputs(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2), (2, 1), (3, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_qonnx_computes_what_qcdq_computes_without_fusion(quantized_network, seed, weight, activation):
    network, module = quantized_network(seed, weight, activation)
    images = network.images()
    plain = OrtSession(lowered(module, LowerQcdq()), optimization="disable").run({"input": images})
    same_outputs(QonnxReference(lowered(module, LowerQonnx())).run({"input": images}).outputs, plain)


def test_the_file_is_checked_typed_and_annotated(quantized_network, written):
    _, module = quantized_network(0, 4, 4)
    made = lowered(module, LowerQonnx())
    model, again = written(made)
    assert {opset.domain: opset.version for opset in model.opset_import}[QONNX_DOMAIN] == 1
    typed = {info.name for info in model.graph.value_info} | {info.name for info in model.graph.output}
    assert {name for node in model.graph.node for name in node.output} <= typed
    annotations = read_annotations(again.graph)
    assert annotations == read_annotations(made.graph)
    weight = next(node for node in again.graph if node.name == "conv0.weight")
    assert annotations[weight.result.name] == {FINN_DATATYPE: "SCALEDINT<4>"}
    assert weight.operands[0].name == "conv0.weight"
    assert weight.operands[1].constant.shape[1:] == (1, 1, 1)


def near_ties(scale, low, high):
    """Values at, just below and just above every border between codes, and far outside."""
    middle = (np.arange(low - 2, high + 2) + 0.5).astype(np.float32) * np.float32(scale)
    edges = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([middle, *edges, np.float32([0.0, -0.0, 1e30, -1e30])])


@settings(deadline=None, max_examples=150)
@given(
    st.floats(2**-20, 2**10, width=32),
    st.integers(1, 8),
    st.booleans(),
    st.booleans(),
    st.integers(0, 255),
)
def test_every_grid_is_computed_exactly_by_the_quantizer_it_is_written_as(scale, bits, signed, narrow, where):
    bits = max(bits, 2)
    narrow &= signed
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = low + 2**bits - 1 - narrow
    zero = 0 if narrow else low + where % (high - low + 1)
    x = near_ties(scale, low - zero, high - zero)
    node = make_fake_quant(
        Value("x"), name="q", bits=bits, widths=[bits], signed=signed, narrow=narrow, scheme="uniform-step"
    )
    FakeQuant(node).calibration = np.float32([[[low - zero, scale]]])
    grid = FakeQuant(node).grid()
    assert int(grid.zero_point[0]) == zero
    form = activation_form(QuantizerArithmetic(FakeQuant(node)))
    found = quant(x, form.scale, np.float32(0), np.float32(form.bits), signed=form.signed, narrow=form.narrow)
    if form.bounds is not None:
        found = np.clip(found, *form.bounds)
    np.testing.assert_array_equal(found, get_scheme("uniform-step").fake_quantize(x, grid))
    assert form.bits <= bits + 1
