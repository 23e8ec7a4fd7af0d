"""Profiles through the shell."""

from __future__ import annotations

import re

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
from qir.cli.main import make_app
from qir.passes import export
from qir.passes.lowering.profiles.profiles import profile_names


def shell(*arguments):
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


@pytest.fixture
def text(calibrated, tmp_path):
    """A calibrated network as text."""
    (tmp_path / "model.qir").write_text(qir.print_module(calibrated(2, 2)), encoding="utf-8")
    return tmp_path / "model.qir"


def test_every_profile_is_listed():
    done = shell("profiles")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(profile_names())


def test_a_calibrated_text_becomes_a_file_of_the_profile(text, samples, tmp_path):
    np.save(tmp_path / "x.npy", samples)
    done = shell("export", text, "--profile", "qdq-int2", "-d", tmp_path / "x.npy", "-o", tmp_path / "model.quant.onnx")
    assert done.exit_code == 0, done.output
    assert "session.disable_quant_qdq=1" in done.stdout
    assert "0 of 53,456 codes differ from the integer reference" in done.stdout
    assert qir.load(tmp_path / "model.quant.onnx").metadata["qir.profile"] == "qdq-int2"


def test_one_profile_becomes_another(calibrated, samples, tmp_path):
    report = export(calibrated(4, 4), tmp_path / "a.quant.onnx", data=samples)
    done = shell("export", report.model, "--profile", "qoperator", "-o", tmp_path / "b.quant.onnx")
    assert done.exit_code == 0, done.output
    assert "QLinearConv" in {node.op for node in qir.load(tmp_path / "b.quant.onnx").graph}


def test_a_float_network_with_encodings_next_to_it_becomes_another_profile(calibrated, samples, tmp_path):
    report = export(calibrated(4, 8), tmp_path / "a.quant.onnx", profile="encodings", data=samples)
    done = shell("export", report.model, "--profile", "qdq-int4", "-o", tmp_path / "b.quant.onnx")
    assert done.exit_code == 0, done.output
    written = qir.load(tmp_path / "b.quant.onnx").graph.constants
    assert {str(value.constant.dtype) for value in written if value.name == "stem.weight.codes"} == {"int4"}


@pytest.mark.parametrize("profile", [name for name in profile_names() if name not in ("finn", "matmul-nbits")])
def test_verify_takes_every_profile(calibrated, samples, tmp_path, profile):
    report = export(calibrated(8, 8), tmp_path / "model.quant.onnx", profile=profile, data=samples)
    done = shell("verify", report.model)
    assert done.exit_code == 0, done.output
    assert "codes covered: exact" in done.stdout
    if report.session:
        assert "without QDQ fusion" in done.stdout
        assert "on integer kernels in ONNX Runtime: 0 of" in done.stdout


def test_opt_exports_what_its_passes_made(text, tmp_path):
    done = shell("opt", text, "--profile", "encodings", "-o", tmp_path / "model.quant.onnx")
    assert done.exit_code == 0, done.output
    assert re.search(r"encodings +.*model\.encodings +\([\d,]+ bytes\)", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "{text}", "--profile", "flat"), "'flat' is unknown: did you mean 'float'"),
        (("opt", "{text}", "--profile", "qcdq"), "give the file to write"),
    ],
)
def test_bad_input_is_named(text, arguments, said, tmp_path):
    done = shell(*(str(text) if argument == "{text}" else argument for argument in arguments))
    assert said in str(done.exception)
