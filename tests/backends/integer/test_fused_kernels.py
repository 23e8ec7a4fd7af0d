"""The integer reference against ONNX Runtime's fused integer kernels: every code of every tensor."""

from __future__ import annotations

import pytest

import qir
import qir.models
from qir.backends.execution.session import OrtSession
from qir.passes import run_passes
from qir.passes.parity.compare import parity
from qir.passes.parity.layers import expose_codes


def mismatches(network, module, report, count: int) -> tuple[int, int]:
    """(codes that differ, codes compared) at ONNX Runtime's default optimization, after integer kernels."""
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


def count_all_widths(modules, images) -> str:
    total = dyadic = everything = 0
    for weight, activation, lowered in modules:
        found = parity(lowered, images, engines=["fused", "dyadic"])
        assert found.keeps_promise, (weight, activation)
        total += sum(layer.codes for layer in found.layers if layer.promised)
        everything += sum(layer.codes for layer in found.layers)
        dyadic += sum(layer.mismatches["dyadic"] for layer in found.layers)
    return f"{total:,} codes equal; dyadic multipliers change {dyadic:,} of {everything:,}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_code_of_a_larger_network_differs_at_any_pair_of_widths(random_network, at_every_width, seed) -> None:
    network, module = random_network(seed, 8, 8, size=16, blocks=6, channels=12)
    print(f"seed {seed}: {count_all_widths(at_every_width(module), network.images(8))}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet", "resnet-20"])
def test_no_code_of_a_trained_network_differs_at_any_pair_of_widths(at_every_width, name) -> None:
    """Shipped networks, trained on Fashion-MNIST; labelled images through every pair of widths."""
    module = qir.load(qir.models.path(name))
    pipeline = "fold-constants,fold-batchnorm,insert-fake-quant{input_widths=all},calibrate{method=minmax}"
    calibration = qir.models.fashion_mnist("calibration").images[:64]
    run_passes(module, pipeline, data=calibration)
    images = qir.models.fashion_mnist("test").images[: 64 if name == "lenet" else 8]
    print(f"{name}: {count_all_widths(at_every_width(module), images)}")
