"""Files that take a fixed number of samples: what other tools' compilers want."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import qir
from qir.backends.integer.reference import IntegerReference
from qir.errors import PassError
from qir.passes import export, raise_quantized
from qir.passes.exporting.c99.build import compiler


def sizes(module: qir.Module) -> list:
    return [value.shape[0] for value in (*module.graph.inputs, *module.graph.outputs)]


def test_every_size_of_the_file_is_known_and_the_network_stays_open(random_network, tmp_path) -> None:
    network, module = random_network(6, 4, 4)
    report = export(module, tmp_path / "m.quant.onnx", data=network.images(4), profile="qoperator", batch=2)
    assert sizes(qir.load(report.model)) == [2, 2]
    assert not isinstance(sizes(module)[0], int)
    assert report.samples == 4
    assert report.mismatches == 0


def test_a_size_that_is_known_already_is_not_changed(random_network, tmp_path) -> None:
    network, module = random_network(6, 4, 4)
    first = export(module, tmp_path / "m.quant.onnx", data=network.images(2), batch=1)
    again = raise_quantized(qir.load(first.model))
    with pytest.raises(PassError, match="does not take 2 samples at a time"):
        export(again, tmp_path / "n.quant.onnx", batch=2)
    assert not (tmp_path / "n.quant.onnx").exists()


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc) on this machine")
@pytest.mark.parametrize("widths", [(8, 8), (4, 4), (1, 2)])
def test_the_c_that_emx_makes_of_a_qoperator_file_gives_the_codes_of_the_reference(
    random_network, tmp_path, widths
) -> None:
    pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen is not installed (extra peers)")
    network, module = random_network(6, *widths)
    images = network.images(16)
    report = export(module, tmp_path / "m.quant.onnx", data=images[:4], profile="qoperator", batch=1)
    options = ["--large-weight-threshold", "0", "--model-name", "model"]
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", report.model, "m.c", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    written = qir.load(report.model)
    taken, given = (int(np.prod(value.shape)) for value in (written.graph.inputs[0], written.graph.outputs[0]))
    (tmp_path / "run.c").write_text(
        '#include <stdio.h>\n#include "m.c"\n'
        f"int main(void) {{ static float in[{taken}], out[{given}];\n"
        f"  while (fread(in, 4, {taken}, stdin) == {taken}) {{\n"
        f"    model((void *)in, (void *)out); fwrite(out, 4, {given}, stdout); }}\n  return 0; }}\n"
    )
    subprocess.run(
        [compiler(), "-O1", "-ffp-contract=off", "-w", "-o", "run", "run.c", "-lm"], cwd=tmp_path, check=True
    )
    done = subprocess.run(
        [tmp_path / "run"], input=images.astype(np.float32).tobytes(), capture_output=True, check=True
    )
    found = np.frombuffer(done.stdout, np.float32).reshape(len(images), -1)
    reference = IntegerReference(written)
    expected = [next(iter(reference.run({"input": image[None]}).outputs.values())).reshape(-1) for image in images]
    assert np.array_equal(found, np.stack(expected))
