"""Old models in newer operator sets: ONNX's own tests keep their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.errors import PassError, QirError
from qir.onnx_io import from_proto, to_bytes
from qir.passes import find_pass
from qir.passes.simplify.upgrade_opset import upgrade_opset
from qir.types import TensorType

DATA = Path(onnx.backend.test.__file__).parent / "data"

LEFT_OUT = (
    "convinteger_with_padding",
    "bitshift_left_uint16",
    "bitshift_right_uint16",
    "strnorm",
    "sequence",
    "scan_sum",
)
"""Tests that ONNX Runtime does not run in their own version either, whose values are not tensors, or of Scan-8."""


def arrays(folder: Path, kind: str) -> list[np.ndarray]:
    found = []
    for path in sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[-1])):
        proto = onnx.TensorProto()
        proto.ParseFromString(path.read_bytes())
        found.append(numpy_helper.to_array(proto))
    return found


def run(model: bytes, feeds: list[np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: x for value, x in zip(session.get_inputs(), feeds, strict=False)})


def old_models(kind: str, below: int) -> list[Path]:
    found = []
    for folder in sorted((DATA / kind).iterdir()):
        if any(name in folder.name for name in LEFT_OUT):
            continue
        proto = onnx.load(folder / "model.onnx", load_external_data=False)
        versions = [entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}]
        if (
            versions
            and 6 <= versions[0] < below
            and all(entry.domain in {"", "ai.onnx"} for entry in proto.opset_import)
        ):
            found.append(folder)
    return found


@pytest.mark.named_nodes("equal")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "below", "least"), [("pytorch-converted", 21, 80), ("pytorch-operator", 21, 35), ("node", 13, 90)]
)
def test_onnx_tests_keep_their_answers_in_version_21(kind: str, below: int, least: int) -> None:
    right = 0
    for folder in old_models(kind, below):
        wanted = arrays(folder / "test_data_set_0", "output")
        module = qir.load(folder / "model.onnx")
        upgrade_opset(module, 21)
        qir.verify(module)
        data = to_bytes(module)
        onnx.checker.check_model(data, full_check=True)
        for found, true in zip(run(data, arrays(folder / "test_data_set_0", "input")), wanted, strict=True):
            np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-4, err_msg=folder.name)
        right += 1
    print(f"{kind}: {right} right")
    assert right >= least


@pytest.mark.parametrize("name", ["light_bvlc_alexnet", "light_squeezenet", "light_shufflenet", "light_densenet121"])
def test_networks_of_the_onnx_wheel_are_valid_in_version_21(name: str) -> None:
    module = qir.load(DATA / "light" / f"{name}.onnx")
    before = len(module.graph)
    shapes = {v.name: v.type for v in module.graph.values() if isinstance(v.type, TensorType)}
    assert find_pass("upgrade-opset")(version=21).run(module, None)
    qir.verify(module)
    assert module.opsets[""] == 21
    assert module.ir_version == 10
    assert len(module.graph) >= before
    assert all(value.type == shapes.get(value.name, value.type) for value in module.graph.values())
    onnx.checker.check_model(to_bytes(module), full_check=True)


def one_node(node: onnx.NodeProto, shape: list[int], version: int, **constants: np.ndarray) -> qir.Module:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8))


@pytest.mark.parametrize(
    ("node", "shape", "version", "constants"),
    [
        (helper.make_node("Softmax", ["x"], ["y"], axis=1), [2, 3, 4], 11, {}),
        (helper.make_node("LogSoftmax", ["x"], ["y"], axis=2), [2, 3, 4], 11, {}),
        (helper.make_node("Upsample", ["x", "s"], ["y"], mode="linear"), [1, 2, 3, 4], 9, {"s": [1, 1, 2, 3]}),
        (helper.make_node("Upsample", ["x", "s"], ["y"]), [1, 2, 3, 4], 9, {"s": [1, 1, 2, 2]}),
        (helper.make_node("Resize", ["x", "s"], ["y"]), [1, 2, 6, 8], 10, {"s": [1, 1, 0.5, 0.5]}),
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[-1], keepdims=0), [2, 3, 4], 13, {}),
        (helper.make_node("Clip", ["x"], ["y"], min=-0.5), [2, 3], 10, {}),
        (helper.make_node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], value=0.5), [2, 3], 10, {}),
    ],
)
def test_a_node_computes_the_same_in_both_versions(node, shape, version, constants) -> None:
    module = one_node(node, shape, version, **{name: np.asarray(v, np.float32) for name, v in constants.items()})
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    before = run(to_bytes(module), [x])[0]
    upgrade_opset(module, 21)
    qir.verify(module)
    np.testing.assert_allclose(run(to_bytes(module), [x])[0], before, rtol=1e-6, atol=1e-7)


def test_a_newer_module_is_left_as_it_is() -> None:
    module = one_node(helper.make_node("Relu", ["x"], ["y"]), [2], 20)
    assert not upgrade_opset(module, 13)
    assert module.opsets[""] == 20


@pytest.mark.named_nodes
def test_what_newer_versions_do_not_have_is_named() -> None:
    module = one_node(
        helper.make_node("BatchNormalization", ["x", "a", "a", "a", "a"], ["y"], name="norm", spatial=0),
        [1, 2, 3],
        8,
        a=np.ones(6, np.float32),
    )
    with pytest.raises(PassError, match=r"BatchNormalization 'norm' normalizes every place"):
        upgrade_opset(module, 13)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(QirError, match="version 999"):
        upgrade_opset(one_node(helper.make_node("Relu", ["x"], ["y"]), [2], 20), 999)
