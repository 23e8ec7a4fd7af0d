from __future__ import annotations

import numpy as np
import pytest

from qir.backends.integer.reference import IntegerReference
from qir.backends.qonnx.reference import QonnxReference
from qir.errors import PassError
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations
from qir.passes import PassContext, PassManager
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.qonnx import lower_thresholds
from qir.passes.lowering.qonnx.lower_thresholds import LowerThresholds


def lowered(module, *passes):
    made = module.clone()
    PassManager(list(passes)).run(made, PassContext())
    return made


def codes_of(module, values):
    """Codes of every MultiThreshold by name of the quantizer, less the zero point."""
    return {node.name: values[node.result] for node in module.graph if node.op == "MultiThreshold"}


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2), (2, 1), (3, 5)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_layers_compute_the_codes_of_the_integer_reference(quantized_network, seed, weight, activation):
    network, module = quantized_network(seed, weight, activation)
    feeds = {"input": network.images()}
    qcdq, finn = lowered(module, LowerQcdq()), lowered(module, LowerThresholds())
    reference = IntegerReference(qcdq).run(feeds)
    found = codes_of(finn, QonnxReference(finn).values(feeds))
    zero_points = {node.name: node.input(2) for node in qcdq.graph if node.op == "QuantizeLinear"}
    assert len(found) >= 5
    compared = different = 0
    for name, centred in found.items():
        value = next(v for v in (f"{name}.clipped", f"{name}.codes") if v in reference.codes)
        zero = int(zero_points[f"{name}.quantize"].constant.numpy())
        different += int((centred.astype(int) + zero != reference.codes[value]).sum())
        compared += centred.size
    joins = sum(node.op in {"Add", "AveragePool", "GlobalAveragePool", "Concat"} for node in finn.graph)
    assert different <= (compared * 1e-4 if joins else 0)


def test_every_tensor_of_integers_is_annotated_and_fits_its_type(quantized_network, written):
    network, module = quantized_network(1, 4, 4)
    made = lowered(module, LowerThresholds())
    _, again = written(made)
    labels = {name: pairs[FINN_DATATYPE] for name, pairs in read_annotations(again.graph).items()}
    values = QonnxReference(again).values({"input": network.images()})
    integers = 0
    for value, array in values.items():
        label = labels.get(value.name, "FLOAT32")
        if label.startswith(("INT", "UINT")):
            bits, signed = int(label.lstrip("UINT")), not label.startswith("U")
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            assert low <= array.min(), value.name
            assert array.max() <= high, value.name
            assert (array == np.rint(array)).all(), value.name
            integers += 1
    assert integers >= 15
    assert "Quant" not in {node.op for node in again.graph}


def test_sums_that_float32_cannot_hold_are_refused(quantized_network, monkeypatch):
    _, module = quantized_network(1, 8, 8)
    monkeypatch.setattr(lower_thresholds, "LARGEST_SUM", 100)
    with pytest.raises(PassError, match=r"layer 'conv0'.*2\^24.*split the layer"):
        lowered(module, LowerThresholds())
