"""The cycles of the model `bit-serial` are those of a unit in Verilog, whose sums are the integer reference's."""

from __future__ import annotations

import shutil
from itertools import product

import numpy as np
import pytest

from qir.backends import ConvShape, load_target
from qir.backends.integer.kernels import conv
from qir.backends.integer.values import Grid
from qir.backends.rtl.bit_serial import BitSerialUnit, Product
from qir.errors import QirError, TargetError
from qir.graph import Graph, Node
from qir.types import DType, TensorType

LAYERS = {
    "convolution": ConvShape(5, 6, 7, 6, kernel=(3, 3), padding=(1, 1)),
    "strided": ConvShape(3, 9, 8, 8, kernel=(2, 3), stride=(2, 1)),
    "dilated": ConvShape(4, 4, 9, 9, kernel=(3, 3), dilation=(2, 2)),
    "pointwise": ConvShape(33, 5, 3, 3),
    "grouped": ConvShape(8, 6, 5, 5, kernel=(3, 3), groups=2),
    "fully connected": ConvShape(70, 10, 1, 1, batch=5, fully_connected=True),
}


def small_unit():
    """The target bismo-16x16x256 with a unit that a simulator builds in seconds."""
    target = load_target("bismo-16x16x256")
    parameters = dict(target.cost.parameters) | {"rows": 4, "columns": 4, "depth": 32}
    return target.model_copy(update={"cost": target.cost.model_copy(update={"parameters": parameters})})


def operands(shape: ConvShape, weight: int, activation: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([weight, activation, shape.in_channels])
    data = random.integers(0, 2**activation, (shape.batch, shape.in_channels, shape.height, shape.width))
    kernel = (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)
    low = 2 ** (weight - 1)
    return data, random.choice([-1, 1], kernel) if weight == 1 else random.integers(-low, low, kernel)


def by_reference(shape: ConvShape, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Exact sums [images, channels, pixels] of the integer reference's convolution."""
    graph = Graph("one")
    values = [graph.add_input(name, TensorType(DType.FLOAT32, x.shape)) for name, x in (("x", data), ("w", weight))]
    attributes = {
        "group": shape.groups,
        "strides": shape.stride,
        "dilations": shape.dilation,
        "pads": (*shape.padding[:2], *shape.padding[-2:]),
    }
    node = Node("Conv", tuple(values), ("y",), name="one", attributes=attributes)
    one, zero = np.ones((), np.float32), np.zeros((), np.int32)
    found = conv(node, [Grid(np.asarray(codes, np.int32), one, zero) for codes in (data, weight)])
    total = found.terms()[0].integers
    return total.reshape(*total.shape[:2], -1)


def products(shape: ConvShape, data: np.ndarray, weight: np.ndarray, bits: tuple[int, int]) -> list[Product]:
    """One product of matrices for each group: a row for each pixel of each image."""
    sides = ((0, 0), (0, 0), *zip(shape.padding[:2], shape.padding[-2:], strict=True))
    spans = [(k - 1) * d + 1 for k, d in zip(shape.kernel, shape.dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(data, sides), spans, axis=(2, 3))
    (down, right), (tall, wide) = shape.stride, shape.dilation
    taps = windows[:, :, ::down, ::right, ::tall, ::wide].transpose(0, 2, 3, 1, 4, 5)
    pixels = taps.reshape(-1, shape.groups, weight[0].size)
    rows = weight.reshape(shape.groups, -1, weight[0].size)
    return [Product(pixels[:, group], rows[group], bits[1], bits[0]) for group in range(shape.groups)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_sums_and_cycles_of_every_layer_and_pair_of_widths_are_those_of_the_model() -> None:
    target = small_unit()
    model, unit = target.cost_model(), BitSerialUnit.of(target)
    cases = [(name, bits) for name in LAYERS for bits in product((1, 2, 3, 4, 6, 8), repeat=2)]
    cases += [("pointwise", bits) for bits in product(range(1, 9), repeat=2)]
    given = {case: (LAYERS[case[0]], *operands(LAYERS[case[0]], *case[1])) for case in cases}
    parts = {case: products(*found, case[1]) for case, found in given.items()}
    simulated = iter(unit.run([part for case in parts for part in parts[case]]))
    for (name, bits), found in given.items():
        shape, expected = found[0], by_reference(*found)
        results = [next(simulated) for _ in range(shape.groups)]
        sums = np.concatenate([result.sums for result in results], axis=1)
        sums = sums.reshape(shape.batch, -1, shape.out_channels).transpose(0, 2, 1)
        assert np.array_equal(sums, expected), (name, bits)
        cycles = sum(result.cycles for result in results)
        assert cycles == model.layer_cost(shape, *bits).compute_cycles, (name, bits)


def test_targets_of_other_models_have_no_unit() -> None:
    with pytest.raises(TargetError, match="its cost model is not bit-serial"):
        BitSerialUnit.of(load_target("bitfusion-e"))


def test_a_missing_simulator_is_named(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(QirError, match="verilator is not installed"):
        BitSerialUnit(4, 4, 32).run([])
