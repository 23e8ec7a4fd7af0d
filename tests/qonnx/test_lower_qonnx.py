from __future__ import annotations

import numpy as np
import onnx
import pytest

import qir
from qir.backends.onnxruntime_session import OrtSession
from qir.backends.qonnx_reference import QonnxReference
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations
from qir.ops.qonnx import QONNX_DOMAIN
from qir.passes import PassContext, PassManager
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.lower_qonnx import LowerQonnx


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
    same_outputs(QonnxReference(lowered(module, LowerQonnx())).run({"input": images}), plain)


def test_the_file_is_checked_typed_and_annotated(quantized_network, tmp_path):
    _, module = quantized_network(0, 4, 4)
    made = lowered(module, LowerQonnx())
    qir.save(made, tmp_path / "q.onnx")
    model = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert {opset.domain: opset.version for opset in model.opset_import}[QONNX_DOMAIN] == 1
    typed = {info.name for info in model.graph.value_info} | {info.name for info in model.graph.output}
    assert {name for node in model.graph.node for name in node.output} <= typed
    again = qir.load(tmp_path / "q.onnx")
    annotations = read_annotations(again.graph)
    assert annotations == read_annotations(made.graph)
    weight = next(node for node in again.graph if node.name == "conv0.weight")
    assert annotations[weight.result.name] == {FINN_DATATYPE: "SCALEDINT<4>"}
    assert weight.operands[0].name == "conv0.weight"
    assert weight.operands[1].constant.shape[1:] == (1, 1, 1)
