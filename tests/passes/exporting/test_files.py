"""Files are deterministic, whole or absent, and say nothing about the machine."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.errors import ExportError
from qir.fake_quant import quantizers
from qir.passes import export
from qir.passes.lowering.profiles.profiles import profile_names
from qir.tensor import Tensor

PROFILES = [name for name in profile_names() if name not in ("finn", "matmul-nbits")]  # fixed sizes, float activations

BEGIN = """
import sys, os, resource, signal
import numpy as np, qir
from pathlib import Path
from qir.passes import export
module = qir.parse(Path(sys.argv[1]).read_text())
data = np.load(sys.argv[2])
"""


def run(script, *arguments, **options):
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def inputs(calibrated, samples, tmp_path):
    """Paths of a calibrated network as text and of samples, in a folder of their own."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "model.qir").write_text(qir.print_module(calibrated(4, 4)), encoding="utf-8")
    np.save(folder / "x.npy", samples)
    return folder / "model.qir", folder / "x.npy"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_network_gives_the_same_bytes(calibrated, samples, tmp_path, profile):
    for name in ("a", "b"):
        export(calibrated(4, 4), tmp_path / name / "model.quant.onnx", profile=profile, data=samples)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_another_process_gives_the_same_bytes(inputs, tmp_path):
    for seed in ("1", "2"):
        script = "export(module, Path(sys.argv[3]) / 'model.quant.onnx', profile='qdq-int4', data=data)"
        done = run(script, *inputs, tmp_path / seed, env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"})
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "1") == content(tmp_path / "2")


@pytest.mark.parametrize("profile", PROFILES)
def test_no_path_of_the_machine_is_inside(calibrated, samples, tmp_path, profile):
    export(calibrated(4, 4), tmp_path / "model.quant.onnx", profile=profile, data=samples)
    for name, data in content(tmp_path).items():
        for folder in (tmp_path, Path.cwd(), Path(qir.__file__).parent):
            assert str(folder).encode() not in data, name


def old_files(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    for name in ("model.quant.onnx", "model.guide.json", "model.weights.bin"):
        (folder / name).write_text(f"old {name}")
    return content(folder)


@pytest.mark.parametrize("limit", [0, 500, 5000, 12000])
def test_a_full_disk_leaves_the_old_files(inputs, tmp_path, limit):
    before = old_files(tmp_path / "out")
    script = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), resource.RLIM_INFINITY))
    try:
        export(module, Path(sys.argv[3]) / "model.quant.onnx", data=data)
    except qir.errors.ExportError as error:
        print(error)
    """
    done = run(script, *inputs, tmp_path / "out", limit)
    assert done.returncode == 0, done.stderr
    assert "older files stay" in done.stdout
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("moment", ["check_file", "save"])
def test_a_killed_export_leaves_the_old_files(inputs, tmp_path, moment):
    before = old_files(tmp_path / "out")
    script = """
    import qir.onnx_io
    plain = getattr(qir.onnx_io, sys.argv[4])
    def killed(*arguments):
        plain(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(qir.onnx_io, sys.argv[4], killed)
    export(module, Path(sys.argv[3]) / "model.quant.onnx", data=data)
    """
    done = run(script, *inputs, tmp_path / "out", moment)
    assert done.returncode == -9
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert kept == before


def test_a_folder_in_the_way_is_named(calibrated, samples, tmp_path):
    (tmp_path / "model.quant.onnx").mkdir()
    with pytest.raises(ExportError, match=r"model\.quant\.onnx.*is a folder"):
        export(calibrated(8, 8), tmp_path / "model.quant.onnx", data=samples)
    assert [path.name for path in tmp_path.iterdir()] == ["model.quant.onnx"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_refused(calibrated, tmp_path, bad):
    module = calibrated(8, 8)
    weight = quantizers(module.graph)["stem.weight"].source
    values = weight.constant.numpy().copy()
    values[0, 0, 0, 0] = bad
    weight.constant = Tensor.of(values)
    quantizers(module.graph)["stem.weight"].is_stale = False
    with pytest.raises(ExportError, match=r"'stem.weight' holds NaN or infinities"):
        export(module, tmp_path / "model.onnx")


def test_a_quantizer_without_ranges_is_refused(calibrated, tmp_path):
    module = calibrated(8, 8)
    quantizers(module.graph)["stem.input"].calibration = None
    with pytest.raises(ExportError, match=r"'stem.input' is not calibrated: run the pass calibrate"):
        export(module, tmp_path / "model.onnx")


def test_an_accumulator_that_can_overflow_is_named(calibrated, tmp_path):
    module = calibrated(8, 8)
    stem = quantizers(module.graph)["stem.input"]
    stem.calibration = np.tile(np.float32([0, 1e-9]), (len(stem.widths), 1, 1))
    with pytest.raises(ExportError, match=r"layer 'stem': .* int32"):
        export(module, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_source_paths_that_exporters_leave_are_not_written(calibrated, samples, tmp_path):
    module = calibrated(8, 8)
    node = next(node for node in module.graph if node.op == "Conv")
    node.metadata |= {"pkg.torch.onnx.stack_trace": 'File "/home/me/net.py", line 3, in forward', "kept": "a/b.py"}
    node.doc_string = "C:\\Users\\me\\net.py:7"
    module.metadata["origin"] = "/home/me/net.onnx"
    export(module, tmp_path / "model.quant.onnx", data=samples)
    assert not any(b"me/net" in data or b"me\\net" in data for data in content(tmp_path).values())
    written = qir.load(tmp_path / "model.quant.onnx")
    assert "a/b.py" in {text for node in written.graph for text in node.metadata.values()}
