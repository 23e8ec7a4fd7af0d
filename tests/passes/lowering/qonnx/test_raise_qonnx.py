from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.execution.session import OrtSession
from qir.fake_quant import quantizers
from qir.onnx_io.annotations import read_annotations
from qir.passes import PassContext, PassManager, raise_quantized
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.qonnx.lower_qonnx import LowerQonnx
from qir.passes.lowering.qonnx.lower_thresholds import LowerThresholds


def lowered(module, *passes):
    made = module.clone()
    PassManager(list(passes)).run(made, PassContext())
    return made


def reread(module, path):
    qir.save(module, path)
    return qir.load(path)


@pytest.mark.parametrize("lowering", [LowerQonnx, LowerThresholds])
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2), (2, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_our_qonnx_files_come_back_with_their_names_widths_and_codes(
    quantized_network, tmp_path, seed, weight, activation, lowering
):
    network, module = quantized_network(seed, weight, activation)
    context = PassContext()
    raised = raise_quantized(reread(lowered(module, lowering()), tmp_path / "q.onnx"), context)
    assert not context.reports["raise-quantized"].left
    assert not read_annotations(raised.graph)
    qir.verify(raised)
    before, after = quantizers(module.graph), quantizers(raised.graph)
    assert set(before) == set(after)
    for name, node in before.items():
        ours, theirs = node.grid(), after[name].grid()
        np.testing.assert_array_equal(ours.scale, theirs.scale)
        assert ours.high_code - ours.low_code == theirs.high_code - theirs.low_code
        assert ours.low_code - ours.zero_point[0] == theirs.low_code - theirs.zero_point[0]
    feeds = {"input": network.images()}
    first, second = (
        OrtSession(lowered(each, LowerQcdq()), optimization="disable").run(feeds) for each in (module, raised)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
