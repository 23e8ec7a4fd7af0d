"""A job is one file: `qir init` writes it with every option, and what qir makes has its own next to it."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

import qir.models
from qir.cli.job_files import command_of, key_of, read_job, toml_value
from qir.errors import QirError


@pytest.mark.parametrize("verb", ["quantize", "search"])
def test_a_new_job_names_every_option_with_its_help_and_can_be_read(tmp_path, shell, verb):
    path = tmp_path / "job.toml"
    assert shell("init", path, "--verb", verb).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {"verb": verb, "model": "model.onnx", "data": "photos/"}
    whole = tomllib.loads("\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line))
    keys = {key_of(parameter) for parameter in command_of(verb).params} - {"json", "quiet", "verbose", "help"}
    assert whole.keys() >= keys
    assert read_job(path) == (verb, ["model.onnx", "--data", "photos/"])
    with pytest.raises(QirError, match="exists"):
        shell("init", path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("verb = ", "cannot be read"),
        ('model = "lenet"', "key 'verb' is missing"),
        ('verb = "quantise"', "did you mean 'quantize'"),
        ('verb = "quantize"\nbudgets = ["latency=0.5x"]', "unknown key 'budgets': did you mean 'budget'"),
        ('verb = "quantize"\nseed = {a = 1}', "key 'seed': expected text"),
        ('verb = "run"\njob = "x.toml"', "runs no job"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path, shell, text, said):
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    with pytest.raises(QirError, match=said):
        shell("run", tmp_path / "job.toml")


@pytest.mark.parametrize("value", ['tab\t " \\ é \u2028 \x7f \x1b[31m', ["a", "b=1"], True, 7, 0.5, []])
def test_values_are_read_back_as_they_were_written(value):
    assert tomllib.loads(f"key = {toml_value(value)}")["key"] == value


def test_what_was_made_is_made_again_from_the_job_next_to_it(tmp_path, shell, answer, monkeypatch):
    np.save(tmp_path / "x.npy", qir.models.fashion_mnist("calibration").images[:32])
    monkeypatch.chdir(tmp_path)
    how = ("-t", "npu-148", "-b", "latency=0.5x", "--no-compare", "-o", "out/model.quant.onnx")
    assert answer("quantize", "lenet", "--data", "x.npy", *how)["job"].endswith("model.job.toml")
    job = tomllib.loads((tmp_path / "out" / "model.job.toml").read_text(encoding="utf-8"))
    assert job == {
        "verb": "quantize",
        "model": "lenet",
        "data": "../x.npy",
        "target": "npu-148",
        "budget": ["latency=0.5x"],
        "compare": False,
        "output": "model.quant.onnx",
    }
    first = (tmp_path / "out" / "model.quant.onnx").read_bytes()
    (tmp_path / "out" / "model.quant.onnx").unlink()
    monkeypatch.chdir("/")
    assert shell("run", tmp_path / "out" / "model.job.toml", "--", "--seed", "0").exit_code == 0
    assert (tmp_path / "out" / "model.quant.onnx").read_bytes() == first
