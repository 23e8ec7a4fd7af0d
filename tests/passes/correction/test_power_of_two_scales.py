"""With power-of-two scales every executor computes the same codes, on integers and on floats."""

from __future__ import annotations

import numpy as np
import pytest

import qir
import qir.models
from qir import quantize
from qir.backends import load_target
from qir.backends.costs.target import ExportSpec
from qir.errors import QirError
from qir.fake_quant import quantizers
from qir.guide import read_guide
from qir.passes import PassContext, PassManager, export, run_passes
from qir.passes.correction.power_of_two_scales import PowerOfTwoScales
from qir.passes.parity.compare import parity


@pytest.mark.parametrize("widths", [(8, 8), (4, 6), (1, 3), (7, 5)])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_no_code_differs_between_any_two_executors(random_network, tmp_path, seed, widths) -> None:
    network, module = random_network(seed, *widths)
    PassManager([PowerOfTwoScales()]).run(module, PassContext())
    written = export(module, tmp_path / "model.quant.onnx", data=network.images(4), requantization="power-of-two")
    guide = read_guide(written.guide)
    assert all(max(map(abs, layer.accumulator)) < 2**24 for layer in guide.layers)
    assert all(o.multiplier.exponent for step in guide.steps for o in step.outputs if o.multiplier)
    report = parity(qir.load(written.model), network.images(8))
    assert report.exact
    assert report.keeps_promise
    assert report.requantization == "power-of-two"
    assert set(report.first) == {"fused", "unfused", "plain", "precise", "dyadic", "power-of-two", "no-vnni"}
    assert not any(report.rate(name) for name in report.first)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("lenet", [(8, 8)]),
        pytest.param("residual", [(8, 8), (4, 8), (1, 1)], marks=pytest.mark.slow),
        pytest.param("resnet-20", [(4, 8), (8, 4), (2, 2)], marks=pytest.mark.slow),
    ],
)
def test_no_code_of_a_trained_network_differs_between_any_two_executors(name, pairs, tmp_path) -> None:
    """Pairs of (weight, activation) bits whose sums stay below 2^24."""
    for weight, activation in pairs:
        module = qir.load(qir.models.path(name))
        placed = f"insert-fake-quant{{weight_widths={weight},activation_widths={activation}}}"
        text = f"fold-constants,fold-batchnorm,{placed},calibrate{{method=minmax}},power-of-two-scales"
        calibration = qir.models.fashion_mnist("calibration").images[:64]
        run_passes(module, text, data=calibration)
        images = qir.models.fashion_mnist("test").images[:32]
        written = export(module, tmp_path / "m.quant.onnx", data=images, requantization="power-of-two")
        report = parity(qir.load(written.model), images)
        assert report.exact
        assert report.keeps_promise
        print(f"{name} {weight}/{activation}: {sum(layer.codes for layer in report.layers):,} codes equal")


def test_every_candidate_width_gets_a_power_of_two_near_its_scale(random_network) -> None:
    _, module = random_network(2, 8, 8)
    before = {name: [n.grid(b).scale for b in n.widths] for name, n in quantizers(module.graph).items()}
    PassManager([PowerOfTwoScales()]).run(module, PassContext())
    for name, node in quantizers(module.graph).items():
        for bits, old in zip(node.widths, before[name], strict=True):
            scale = node.grid(bits).scale
            assert (np.log2(scale) % 1 == 0).all()
            assert (np.abs(np.log2(scale / old)) <= 0.51).all()


def test_a_stale_quantizer_is_refused(random_network) -> None:
    _, module = random_network(2, 8, 8)
    next(iter(quantizers(module.graph).values())).is_stale = True
    with pytest.raises(QirError, match="run calibrate first"):
        PassManager([PowerOfTwoScales()]).run(module, PassContext())


def test_a_target_that_shifts_gets_power_of_two_scales_from_the_shell_on(tmp_path) -> None:
    plain = load_target("bitfusion-e")
    target = plain.model_copy(update={"export": ExportSpec(requantization="power-of-two")})
    data = qir.models.fashion_mnist("calibration").images[:32]
    done = quantize(qir.models.path("lenet"), target=target, data=data, output=tmp_path / "m.quant.onnx")
    guide = read_guide(done.written.guide)
    assert guide.requantization.kind == "power-of-two"
    assert all(o.multiplier.exponent for step in guide.steps for o in step.outputs if o.multiplier)
    report = parity(qir.load(done.written.model), data)
    assert report.exact
    assert report.keeps_promise
