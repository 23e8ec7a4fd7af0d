"""What cannot become a faithful file is refused by name, with a remedy, and older files stay as they are."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import qir
import qir.models
from qir.backends import load_target
from qir.backends.integer.reference import IntegerReference
from qir.errors import ExportError, QirError
from qir.fake_quant import quantizers
from qir.passes import export, run_passes
from qir.passes.exporting.build_guide import build_guide
from qir.passes.parity.compare import parity
from qir.tensor import Tensor


def scaled(module: qir.Module, name: str, factor) -> qir.Module:
    """Another weight: one of the network's times a factor."""
    value = next(value for value in module.graph.constants if value.name == name)
    value.constant = Tensor.of((value.constant.numpy() * factor).astype(np.float32))
    return module


def calibrated(module: qir.Module, network, text: str = "insert-fake-quant,calibrate{method=minmax}") -> qir.Module:
    run_passes(module, text, data=network.images(16))
    return module


def test_fake_quant_nodes_that_were_not_lowered_are_named(random_network) -> None:
    network, module = random_network(5, 8, 8)
    for run in (parity, IntegerReference):
        with pytest.raises(QirError, match="still has fake-quant nodes: export it first"):
            run(module)
    with pytest.raises(ExportError, match="no fake-quant nodes: run insert-fake-quant and calibrate first"):
        export(network.module(), "never.onnx")


@pytest.mark.named_nodes
@pytest.mark.parametrize("operand", ["input", "weight"])
def test_a_layer_with_one_quantizer_missing_stays_float_and_is_named(random_network, tmp_path, operand) -> None:
    network, module = random_network(5, 8, 8)
    node = quantizers(module.graph)[f"n3_conv.{operand}"]
    node.result.replace_all_uses_with(node.source)
    module.graph.erase(node.node)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4))
    report = parity(qir.load(written.model), network.images(4))
    assert "n3_conv" in report.float_nodes
    assert report.keeps_promise
    assert max(layer.largest["fused"] for layer in report.layers) <= 1
    assert report.rate("fused") < 1e-2
    reason = "its weight 'c2' has no codes" if operand == "weight" else "its operand 'n2_out' has no codes"
    assert [layer.reason for layer in report.layers if layer.kernel == "float"] == [reason]


@pytest.mark.named_nodes
def test_missing_calibration_is_named(random_network, tmp_path) -> None:
    network, _ = random_network(5, 8, 8)
    module = network.module()
    run_passes(module, "insert-fake-quant")
    with pytest.raises(ExportError, match=r"quantizer 'n0_conv.input' is not calibrated: run the pass calibrate"):
        export(module, tmp_path / "m.quant.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(random_network, tmp_path, bad) -> None:
    _, module = random_network(5, 8, 8)
    factor = np.ones((1, 1, 1, 3), np.float32)
    factor[..., 1] = bad
    with pytest.raises(ExportError, match=r"constant 'c2' holds NaN or infinities: repair the model"):
        export(scaled(module, "c2", factor), tmp_path / "m.quant.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.named_nodes
@pytest.mark.parametrize("channels", ["one", "all"])
def test_a_scale_that_underflows_is_named_and_fit_bias_helps(random_network, tmp_path, channels) -> None:
    network, _ = random_network(5, 8, 8)
    weight = next(v for v in network.module().graph.constants if v.name == "c2").constant.numpy()
    factor = np.full((len(weight), 1, 1, 1), 1e-25, np.float32)
    factor[1 if channels == "one" else len(weight) :] = 1
    text = "insert-fake-quant,calibrate{method=minmax}"
    module = calibrated(scaled(network.module(), "c2", factor), network, text)
    with pytest.raises(QirError, match=r"layer 'n3_conv': its bias .* at scale .*: run fit-bias after"):
        export(module, tmp_path / "m.quant.onnx")
    run_passes(module, "fit-bias")
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4))
    assert written.mismatches == 0


@pytest.mark.named_nodes
def test_a_tensor_that_vanishes_is_named(random_network) -> None:
    network, _ = random_network(5, 8, 8)
    module = calibrated(network.module(), network)
    node = quantizers(module.graph)["n3_conv.input"]
    node.calibration = np.stack([node.ranges(bits) * np.float32(1e-30) for bits in node.widths])
    layer = next(n for n in module.graph if n.name == "n3_conv")
    layer.set_input(2, None)
    with pytest.raises(ExportError, match=r"quantizer 'n3_conv.input': the scale of channel 0 underflows"):
        build_guide(module, weights_file="w.bin")


@pytest.mark.named_nodes
def test_an_output_range_far_below_the_sums_is_named(random_network) -> None:
    network, _ = random_network(5, 8, 8)
    module = calibrated(network.module(), network)
    node = quantizers(module.graph)["n14_gemm.output"]
    node.calibration = np.stack([node.ranges(bits) * np.float32(1e-13) for bits in node.widths])
    with pytest.raises(ExportError, match=r"layer 'n14_gemm': its requantization multiplier .* leaves 31 bits"):
        build_guide(module, weights_file="w.bin")


@pytest.mark.named_nodes
def test_a_sum_beyond_the_targets_accumulator_is_named(random_network) -> None:
    _, module = random_network(5, 8, 8)
    target = load_target("bitfusion-e").model_copy(update={"accumulator_bits": 16})
    with pytest.raises(ExportError, match=r"layer 'n0_conv': its sums can reach .*leave the target's 16-bit accumul"):
        build_guide(module, weights_file="w.bin", target=target)
    _, module = random_network(5, 3, 3)
    guide, _ = build_guide(module, weights_file="w.bin", target=target)
    assert max(layer.accumulator_bits for layer in guide.layers) <= 16


@pytest.mark.named_nodes
@pytest.mark.parametrize("widths", [(8, 8), (1, 4), (4, 2)])
def test_dead_channels_give_the_bias_in_every_arithmetic(random_network, tmp_path, widths) -> None:
    network, _ = random_network(5, 8, 8)
    weight = next(v for v in network.module().graph.constants if v.name == "c2").constant.numpy()
    factor = np.zeros((len(weight), 1, 1, 1), np.float32)
    factor[2:] = 1
    placed = f"insert-fake-quant{{weight_widths={widths[0]},activation_widths={widths[1]}}}"
    text = f"{placed},calibrate{{method=minmax}},fit-bias"
    module = calibrated(scaled(network.module(), "c2", factor), network, text)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4))
    report = parity(qir.load(written.model), network.images(4))
    assert report.keeps_promise
    codes = IntegerReference(qir.load(written.model)).run({"input": network.images(4)}).codes
    layer = next(value for value in codes if value.startswith(("n5_conv.input", "n6_add.input")))
    dead = codes[layer][:, :2].reshape(4, 2, -1)
    assert (dead == dead[:, :, :1]).all()


def old_files(tmp_path: Path, module: qir.Module, network) -> dict[str, bytes]:
    export(module, tmp_path / "m.quant.onnx", data=network.images(2))
    return {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_full_disk_leaves_the_old_files(random_network, tmp_path, monkeypatch) -> None:
    network, module = random_network(0, 8, 8)
    before = old_files(tmp_path, module, network)
    _, other = random_network(0, 4, 4)

    def full(self: Path, content: bytes) -> int:
        self.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExportError, match=r"cannot be written: No space left on device; older files stay"):
        export(other, tmp_path / "m.quant.onnx", data=network.images(2))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("moment", ["compare_written", "_write"])
def test_a_process_killed_while_writing_leaves_the_old_files(random_network, tmp_path, moment) -> None:
    network, module = random_network(0, 8, 8)
    before = old_files(tmp_path, module, network)
    source = tmp_path.parent / f"{tmp_path.name}.float.onnx"
    qir.save(network.module(), source)
    code = f"""
        import os, signal, numpy, qir
        from qir.passes import PassContext, PassManager, export, parse_pipeline
        from qir.passes.exporting import export as exporting
        module = qir.load({str(source)!r})
        data = numpy.zeros((2, 3, 12, 12), numpy.float32) + numpy.linspace(-1, 1, 12, dtype=numpy.float32)
        PassManager(parse_pipeline("insert-fake-quant,calibrate{{method=minmax}}")).run(
            module, PassContext(calibration_data=data))
        assert hasattr(exporting, {moment!r})
        setattr(exporting, {moment!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        export(module, {str(tmp_path / "m.quant.onnx")!r}, data=data)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == -9
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
