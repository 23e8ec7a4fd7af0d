"""Folders of images from the shell: quantized, searched, verified, and what is said of them."""

import numpy as np
import pytest
from typer.testing import CliRunner

import qir.models
from qir.cli.main import make_app

LENET = str(qir.models.path("lenet"))
SHELL = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    image = pytest.importorskip("PIL.Image")
    made, samples = tmp_path_factory.mktemp("clothes"), qir.models.fashion_mnist("calibration")
    for number, (pixels, label) in enumerate(zip(samples.images[:60], samples.labels[:60], strict=True)):
        path = made / str(label) / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image.fromarray((pixels[0] * 255).round().astype(np.uint8)).save(path)
    return made


def shell(*arguments):
    done = SHELL.invoke(make_app(), [str(argument) for argument in arguments], catch_exceptions=False)
    return done.output.replace("\n", " ")


def test_a_folder_is_quantized_and_accuracy_is_told_on_its_classes(folder, tmp_path):
    said = shell("quantize", LENET, "--data", folder, "-o", tmp_path / "q.onnx", "--no-compare")
    assert "60 images" in said
    assert "10 classes, labels 0 to 9" in said
    assert "pixels 0 to 1 (by default)" in said
    assert "accuracy:" in said
    assert "warning" not in said
    said = shell("verify", tmp_path / "q.onnx", "--against", LENET, "--data", folder, "--size", "28")
    assert "data: 60 images" in said
    assert "accuracy:" in said


def test_options_say_what_is_done_with_images(folder, tmp_path):
    options = ("--size", "28x28", "--mean", "0.5", "--std", "0.25", "--range", "0,1", "--layout", "nchw")
    said = shell("quantize", LENET, "--data", folder, "-o", tmp_path / "q.onnx", "--no-compare", *options)
    assert "-2 to 2; NCHW, pixels 0 to 1, mean 0.5, std 0.25 (from options)" in said


@pytest.mark.slow
def test_a_search_divides_a_labelled_folder(folder, tmp_path):
    where = ("--data", folder, "-o", tmp_path / "q.onnx")
    said = shell(
        "search", LENET, *where, "--method", "random", "--evaluations", "2", "-t", "npu-148", "-b", "latency=0.5x"
    )
    assert "10 classes" in said
    assert "search-validation" in said
    assert (tmp_path / "q.onnx").is_file()


@pytest.mark.parametrize(
    ("option", "text"), [("--size", "big"), ("--mean", "a,b"), ("--range", "1"), ("--layout", "CHWN"), ("--std", "0")]
)
def test_options_that_are_none_are_named(folder, tmp_path, option, text):
    with pytest.raises(qir.errors.DataError, match=option.strip("-")):
        shell("quantize", LENET, "--data", folder, "-o", tmp_path / "q.onnx", option, text)
