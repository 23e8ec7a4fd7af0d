"""The trained networks that come with qir keep what their cards promise."""

import hashlib
import math
import os
from collections import Counter
from dataclasses import asdict

import onnx
import pytest

from qir.errors import DataError
from qir.models import card, fashion_mnist, names, path
from qir.models.data.cifar10 import VARIABLE
from qir.models.recipes import RECIPES, training_data
from qir.models.training import count_correct

BATCH_NORMS = {"lenet": 3, "residual": 9, "resnet-20": 21, "resnet-20-cifar": 21}
FASHION = [name for name in names() if card(name)["recipe"]["data"] == "fashion-mnist"]


@pytest.mark.parametrize("name", names())
def test_card_describes_the_file(name):
    content = card(name)
    assert content["name"] == name
    assert content["file"] == path(name).name
    assert hashlib.sha256(path(name).read_bytes()).hexdigest() == content["sha256"]
    assert content["bytes"] == path(name).stat().st_size
    assert content["recipe"] == asdict(RECIPES[name])


@pytest.mark.parametrize("name", FASHION)
def test_search_validation_is_left_out_of_training(name):
    content = card(name)
    assert content["splits"]["search-validation"] == [58_000, 60_000]
    assert content["trained_on"]["left_out"].startswith("58000 <= index < 60000")
    assert content["trained_on"]["images"] == 58_000


@pytest.mark.slow
@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no copy of CIFAR-10")
def test_onnx_runtime_reproduces_the_accuracy_on_cifar_10():
    content = card("resnet-20-cifar")
    found = training_data("cifar-10")
    assert len(found.samples) == content["trained_on"]["images"]
    for split, samples in found.measured.items():
        rate = count_correct(path("resnet-20-cifar"), samples.images, samples.labels) / len(samples)
        assert rate == pytest.approx(content["accuracy"][split]["rate"], abs=0.0005)


@pytest.mark.parametrize("name", FASHION)
@pytest.mark.parametrize("split", ["search-validation", "test"])
def test_onnx_runtime_reproduces_the_accuracy_of_the_card(name, split):
    samples = fashion_mnist(split)
    promised = card(name)["accuracy"][split]
    rate = count_correct(path(name), samples.images, samples.labels) / len(samples)
    assert rate == pytest.approx(promised["rate"], abs=0.0005)


@pytest.mark.parametrize("name", names())
def test_batch_norm_stays_in_inference_form(name):
    model = onnx.load(path(name))
    onnx.checker.check_model(model, full_check=True)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == BATCH_NORMS[name]
    for node in norms:
        assert {a.name: a.i for a in node.attribute}.get("training_mode", 0) == 0
        assert len(node.output) == 1


@pytest.mark.parametrize("name", names())
def test_file_is_portable(name):
    model = onnx.load(path(name))
    assert model.ir_version <= 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.doc_string for node in model.graph.node)
    assert b"/site-packages/" not in path(name).read_bytes()


def test_lenet_is_caffes():
    model = onnx.load(path("lenet"))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Conv"], kinds["Gemm"], kinds["Identity"]) == (2, 2, 0)
    weights = [math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert sorted(weights) == [500, 5_000, 25_000, 400_000]


def test_unknown_network_names_the_shipped_ones():
    with pytest.raises(DataError, match="lenet"):
        path("resnet-1000")
