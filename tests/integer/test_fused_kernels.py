"""The integer reference against ONNX Runtime's fused integer kernels: every code of every tensor."""

from __future__ import annotations

import pytest

from qir.backends.onnxruntime_session import OrtSession
from qir.passes.parity import parity
from qir.passes.parity_layers import expose_codes


def mismatches(network, module, report, count: int) -> tuple[int, int]:
    """(codes that differ, codes compared) at ONNX Runtime's default optimization, behind integer kernels."""
    session = OrtSession(expose_codes(module))
    assert sorted(session.integer_nodes()) == sorted(report.integer_nodes)
    found = parity(module, network.images(count), engines=["fused"])
    assert found.keeps_promise
    promised = [layer for layer in found.layers if layer.promised]
    assert all("Resize" in layer.reason for layer in found.layers if layer.kernel == "float")
    return sum(layer.mismatches["fused"] for layer in promised), sum(layer.codes for layer in promised)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("widths", [(8, 8), (4, 8), (8, 3), (1, 2), (5, 1), (7, 7)])
def test_no_code_of_a_random_network_differs(exported, seed, widths) -> None:
    differ, compared = mismatches(*exported(seed, *widths), count=4)
    assert compared > 100
    assert differ == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_code_of_a_larger_network_differs_at_any_pair_of_widths(exported, seed) -> None:
    total = 0
    for weight in range(1, 9):
        for activation in range(1, 9):
            made = exported(seed, weight, activation, size=16, blocks=6, channels=12)
            differ, compared = mismatches(*made, count=8)
            assert differ == 0, (weight, activation)
            total += compared
    print(f"seed {seed}: {total:,} codes equal")
