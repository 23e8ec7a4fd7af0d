"""The same network through ONNX Runtime's `quantize_static`: scales where the definition is the same, and accuracy.

Min-max has one definition. Percentile has one for values of one sign (ONNX Runtime counts absolute values) where ONNX
Runtime is not told to take symmetric ranges, its default. Entropy has not: ONNX Runtime divides every histogram into
128 quantized bins whatever the width, and with its default of 128 bins returns the whole range.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import qir
import qir.models
from qir.fake_quant import quantizers
from qir.passes import export, run_passes
from qir.passes.calibration.calibrate import float_network
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.search import load_network

quantization = pytest.importorskip("onnxruntime.quantization")


class Reader(quantization.CalibrationDataReader):
    """Calibration images in batches, as ONNX Runtime reads them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.feeds = iter([{name: images[i : i + 16]} for i in range(0, len(images), 16)])

    def get_next(self):
        return next(self.feeds, None)


@pytest.fixture(scope="module")
def calibrated(images):
    """Makes LeNet calibrated at 8 bits by a method of ours."""

    def make(method: str) -> qir.Module:
        module = load_network(qir.models.path("lenet"))
        steps = f"insert-fake-quant{{weight_widths=8,activation_widths=8}},calibrate{{method={method},weights=minmax}}"
        run_passes(module, f"{SIMPLIFY},{steps}", data=images)
        return module

    return make


@pytest.fixture(scope="module")
def static(calibrated, images, tmp_path_factory):
    """Makes the file that `quantize_static` writes: path by method."""
    folder = tmp_path_factory.mktemp("static")
    module = calibrated("minmax")
    qir.save(float_network(module), folder / "float.onnx")
    name = next(value.name for value in module.graph.inputs)

    def make(method: str):
        path = folder / f"{method}.onnx"
        quantization.quantize_static(
            str(folder / "float.onnx"),
            str(path),
            Reader(name, images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options={"CalibTensorRangeSymmetric": False},
        )
        return path

    return make


def grids(path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every quantized activation of a QDQ file."""
    graph = onnx.load(path).graph
    constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    return {
        node.input[0].removesuffix("_QuantizeLinear_Input"): (
            float(constants[node.input[1]]),
            int(constants[node.input[2]]),
        )
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }


def ours(module: qir.Module) -> dict[str, tuple[float, int]]:
    found = {}
    for node in quantizers(module.graph).values():
        grid = node.grid()
        if not node.source.is_constant:
            found[node.source.name] = (float(grid.scale[0]), int(grid.zero_point[0]))
    return found


def test_min_max_gives_the_scales_and_zero_points_of_quantize_static(calibrated, static) -> None:
    theirs, made = grids(static("MinMax")), ours(calibrated("minmax"))
    both = theirs.keys() & made.keys()
    assert len(both) == len(made) == 5
    for name in both:
        assert made[name][0] == pytest.approx(theirs[name][0], rel=1e-6), name
        assert made[name][1] == theirs[name][1], name


def test_percentile_gives_nearly_the_scales_of_quantize_static(calibrated, static) -> None:
    theirs, made = grids(static("Percentile")), ours(calibrated("percentile"))
    for name in theirs.keys() & made.keys():
        if theirs[name][1] == 0:
            assert made[name][0] == pytest.approx(theirs[name][0], rel=0.03), name


def test_entropy_is_another_definition(calibrated, static) -> None:
    theirs, whole, made = grids(static("Entropy")), ours(calibrated("minmax")), ours(calibrated("entropy"))
    for name in theirs.keys() & made.keys():
        assert theirs[name][0] == pytest.approx(whole[name][0], rel=0.01), name
        assert made[name][0] <= whole[name][0] * 1.01, name


def test_accuracy_at_8_bits_is_not_below_that_of_quantize_static(calibrated, static, tmp_path) -> None:
    split = qir.models.fashion_mnist("search-validation")
    name = next(value.name for value in calibrated("minmax").graph.inputs)

    def accuracy(path) -> float:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return float((session.run(None, {name: split.images})[0].argmax(1) == split.labels).mean())

    theirs = {method: accuracy(static(method)) for method in ("MinMax", "Percentile", "Entropy")}
    made = {
        method: accuracy(export(calibrated(method), tmp_path / f"{method}.onnx", data=split.images[:64]).model)
        for method in ("mse", "minmax", "percentile", "entropy")
    }
    print(f"{len(split.images)} images; qir: {made}; quantize_static: {theirs}")
    half_an_image = 0.5 / len(split.images)
    assert made["minmax"] >= theirs["MinMax"] - half_an_image
    assert made["percentile"] >= theirs["Percentile"] - half_an_image
    assert made["mse"] >= max(theirs.values()) - half_an_image
