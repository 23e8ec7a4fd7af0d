"""ONNX's node tests through the torch interpreter: right, or refused with a reason; never wrong, never a traceback."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
import torch
from onnx import numpy_helper

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.backends.torch.ops.base import has_lowering
from qir.errors import QirError
from qir.ops import infer, op_of
from qir.types import TensorType

FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "node"

FRACTIONAL_SIZE = {
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
}
"""The reference aligns corners of an output of 2.4 pixels; ONNX Runtime and qir of its two."""


def arrays(folder, kind):
    found = []
    for path in sorted(folder.glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[-1])):
        proto = onnx.TensorProto()
        proto.ParseFromString(path.read_bytes())
        found.append(numpy_helper.to_array(proto))
    return found


def outcome(folder):
    """`right`, `wrong`, or why the test is left out."""
    try:
        module = qir.load(folder / "model.onnx")
    except QirError:
        return "not read"
    if not all(isinstance(v.type, TensorType) for v in (*module.graph.inputs, *module.graph.outputs)):
        return "sequences and optional values"
    if any(op_of(node).is_random for node in module.graph.walk()):
        return "random"
    feeds, wanted = (arrays(folder / "test_data_set_0", kind) for kind in ("input", "output"))
    if any(a.dtype.kind not in "biuf" or a.dtype.name.startswith("float8") for a in feeds + wanted):
        return "element type without torch twin"
    try:
        network = TorchModule(module)
        with torch.no_grad():
            found = network(*(torch.from_numpy(np.array(a)) for a in feeds))
        found = [tensor.numpy() for tensor in found]
    except QirError:
        return "refused"
    except TypeError as error:
        return "element type without torch twin" if "ScalarType" in str(error) else "traceback"
    if all(map(same, found, wanted)):
        return "right"
    return "as ONNX Runtime computes it" if borrowed(module) and like_the_runtime(module, feeds, found) else "wrong"


def borrowed(module):
    """Whether ONNX Runtime computes a node for torch, which has no lowering of it."""
    return any(not has_lowering(node, module.opsets) for node in module.graph)


def like_the_runtime(module, feeds, found):
    names = [value.name for value in module.graph.inputs]
    made = OrtSession(module, optimization="disable").run(dict(zip(names, feeds, strict=True)))
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(found, made.values(), strict=True))


def same(made, true):
    if made.shape != true.shape or made.dtype != true.dtype:
        return False
    return np.allclose(made, true, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_node_tests_are_right_or_refused():
    results = {folder.name: outcome(folder) for folder in sorted(FOLDER.iterdir())}
    counts = Counter(results.values())
    print(dict(counts))
    assert {name for name, result in results.items() if result in {"wrong", "traceback"}} <= FRACTIONAL_SIZE
    assert counts["right"] > 1050


def test_inferred_types_agree_with_the_declared_ones():
    agreed = 0
    for folder in sorted(FOLDER.iterdir()):
        try:
            module = qir.load(folder / "model.onnx")
        except QirError:
            continue
        if len(module.graph) != 1:
            continue
        (node,) = module.graph.nodes
        try:
            types = infer(node, module)
        except QirError:
            continue
        for made, result in zip(types, node.results, strict=True):
            declared = result.type
            if not isinstance(made, TensorType) or not isinstance(declared, TensorType):
                continue
            assert made.dtype is declared.dtype, folder.name
            if made.shape is not None and declared.shape is not None:
                pairs = zip(made.shape, declared.shape, strict=True)
                assert all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int)), folder.name
            agreed += 1
    assert agreed > 900
