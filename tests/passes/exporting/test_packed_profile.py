"""Profile `qcdq-packed`: n bits a weight on disk, the same integer kernels and the same results."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.backends.execution.session import OrtSession
from qir.passes import export
from qir.passes.parity.compare import parity

WIDTHS = tuple(range(1, 8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_packed_file_computes_the_same_with_the_same_kernels(random_network, tmp_path, bits) -> None:
    network, module = random_network(0, bits, 8, channels=64, first=64)
    images = network.images(2)
    plain = export(module, tmp_path / "plain.quant.onnx", data=images)
    packed = export(module, tmp_path / "packed.quant.onnx", profile="qcdq-packed", data=images)
    loaded = qir.load(packed.model)
    assert any(node.op == "BitShift" for node in loaded.graph)
    assert packed.integer_nodes == plain.integer_nodes
    for level in ("all", "disable"):
        first, second = (
            OrtSession(report.model, optimization=level).run({"input": images}) for report in (plain, packed)
        )
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert parity(loaded, images, engines=["fused"]).keeps_promise


def test_the_file_shrinks_with_the_bits(random_network, tmp_path) -> None:
    sizes = []
    for bits in (8, 6, 4, 2, 1):
        network, module = random_network(0, bits, 8, channels=64, first=64)
        report = export(module, tmp_path / f"{bits}.quant.onnx", profile="qcdq-packed", data=network.images(2))
        sizes.append(sum(t.constant.numpy().nbytes for t in qir.load(report.model).graph.constants))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.4 * sizes[0]


def test_small_weights_stay_as_they_are(random_network, tmp_path) -> None:
    network, module = random_network(0, 4, 8)
    report = export(module, tmp_path / "m.quant.onnx", profile="qcdq-packed", data=network.images(2))
    assert not any(node.op == "BitShift" for node in qir.load(report.model).graph)
