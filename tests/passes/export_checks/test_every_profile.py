"""Files of every profile before tools of others: ONNX's checker, strict inference and reference, and Netron.

Netron lives in an environment of its own; QIR_NETRON_PYTHON names its interpreter, and `node` runs its page's code:
`python -m venv E; E/bin/pip install netron`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import qir
from qir.backends.execution.session import OrtSession
from qir.passes import export, run_passes
from qir.passes.lowering.profiles.profiles import find_profile, profile_names

NETRON = os.environ.get("QIR_NETRON_PYTHON")
READER = Path(__file__).with_name("read_with_netron.mjs")
PROFILES = [name for name in profile_names() if find_profile(name).activations]
STANDARD = [name for name in PROFILES if find_profile(name).runs_in == "onnxruntime"]


def network() -> qir.Module:
    """Convolution, depthwise convolution, addition, pooling and Gemm on 6 x 6 pixels; opset 21 for onnx.reference."""
    random = np.random.default_rng(0)

    def constant(name, *shape):
        return numpy_helper.from_array((random.normal(size=shape) / 2).astype(np.float32), name)

    constants = [constant("a.weight", 4, 2, 3, 3), constant("a.bias", 4), constant("b.weight", 4, 1, 3, 3)]
    constants += [constant("fc.weight", 3, 36), constant("fc.bias", 3)]
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a"], name="a", **pads),
        helper.make_node("Relu", ["a"], ["ar"], name="relu"),
        helper.make_node("Conv", ["ar", "b.weight"], ["b"], name="b", group=4, **pads),
        helper.make_node("Add", ["ar", "b"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["sr"], name="relu2"),
        helper.make_node("MaxPool", ["sr"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    shapes = {"x": [2, 2, 6, 6], "y": [2, 3]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "small", infos[:1], infos[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return qir.load(model.SerializeToString())


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 2, 6, 6)).astype(np.float32)


@pytest.fixture
def exported(tmp_path):
    """Factory: (profile, bits) → path of the exported network."""

    def make(profile, bits=4):
        module = network()
        insert = f"insert-fake-quant{{input_widths={bits},weight_widths={bits},activation_widths={bits}}}"
        symmetric = ",symmetric-activations{everywhere=true}" if profile == "finn" else ""
        text = f"infer-types,{insert},calibrate{{method=minmax}}{symmetric}"
        run_passes(module, text, data=[{"x": images()}])
        return export(module, tmp_path / f"{profile}.quant.onnx", profile=profile, data=[{"x": images()}]).model

    return make


@pytest.mark.parametrize("profile", PROFILES)
def test_the_checker_and_strict_inference_take_every_file(exported, profile):
    path = exported(profile)
    onnx.checker.check_model(path, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    typed = {info.name for info in (*inferred.graph.value_info, *inferred.graph.output)}
    made = {name for node in inferred.graph.node for name in node.output if name}
    assert made <= typed
    assert inferred.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("profile", STANDARD)
def test_onnx_reference_computes_what_onnxruntime_computes(exported, profile, bits):
    path = exported(profile, bits)
    model = onnx.load(path)
    if any(node.domain for node in model.graph.node):
        pytest.skip("onnx.reference has none of ONNX Runtime's own operators")
    feeds = {"x": images()}
    (found,) = ReferenceEvaluator(model).run(None, feeds)
    plain = OrtSession(path, optimization="disable").run(feeds)["y"]
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


@pytest.mark.slow
@pytest.mark.skipif(
    NETRON is None or shutil.which("node") is None,
    reason="QIR_NETRON_PYTHON names no interpreter with netron, or no node",
)
def test_netron_serves_and_reads_every_profile(exported, tmp_path):
    paths = [exported(profile) for profile in PROFILES]
    place = subprocess.run(
        [NETRON, "-c", "import netron; print(netron.__path__[0])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    folder = tmp_path / "netron"
    shutil.copytree(place, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    read = subprocess.run(
        ["node", str(READER), str(folder), *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    seen = [json.loads(line) for line in read.stdout.splitlines()]
    assert len(seen) == len(paths)
    for path, entry in zip(paths, seen, strict=True):
        model = onnx.load(path)
        assert entry["nodes"] >= len(model.graph.node) * 0.5
        assert {"qir.version", "qir.policy", "qir.profile", "qir.guide.sha256"} <= set(entry["metadata"])
        assert bool(entry["quantized"]) >= bool(model.graph.quantization_annotation)
    assert served(paths[0]) == paths[0].read_bytes()


def served(path: Path) -> bytes:
    """The bytes that Netron's server hands its page."""
    port = 20000 + os.getpid() % 20000
    code = "import netron, sys, time; netron.start(sys.argv[1], browse=False, address=('127.0.0.1', int(sys.argv[2])));"
    code += "time.sleep(60)"
    server = subprocess.Popen([NETRON, "-c", code, str(path), str(port)], stdout=sys.stderr)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                    assert page.status == 200
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/{path.name}") as data:
                    return data.read()
            except urllib.error.URLError:
                time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
    raise AssertionError("Netron's server does not answer")
