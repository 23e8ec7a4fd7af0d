"""Random networks compute the same files when all their nodes are nameless, or all have one name."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.execution.session import OrtSession
from qir.passes import export, run_passes
from qir.passes.parity.compare import parity

STEPS = (
    "fold-batchnorm,infer-types,insert-fake-quant{input_widths=all},calibrate{method=minmax},equalize-weights,"
    "calibrate{method=minmax},correct-channels"
)


def quantized(module: qir.Module, images: np.ndarray) -> qir.Module:
    run_passes(module, STEPS, data=images)
    return module


@pytest.mark.parametrize("name", ["", "node"], ids=["without names", "with one name for all"])
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 12))])
@pytest.mark.parametrize("profile", ["qcdq", "qoperator"])
def test_a_random_network_is_written_alike_whatever_its_nodes_are_called(seed, name, profile, random_network, tmp_path):
    network, _ = random_network(seed, 8, 8)
    images, outputs, verdicts = network.images(8, seed=3), [], []
    for label in ("own", "other"):
        module = network.module()
        for node in module.graph if label == "other" else ():
            node.name = name
        written = export(quantized(module, images), tmp_path / f"{label}.quant.onnx", profile=profile, data=images)
        outputs.append(OrtSession(written.model, optimization="disable").run({"input": images}))
        report = parity(qir.load(written.model), images[:2], engines=["plain", "no-vnni"])
        verdicts.append([(layer.codes, layer.kernel, dict(layer.mismatches)) for layer in report.layers])
    for one, other in zip(outputs[0].values(), outputs[1].values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert verdicts[0] == verdicts[1]
