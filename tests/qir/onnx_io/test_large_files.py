"""Models of more than 2 GiB go from file to file through a window: memory does not grow with them."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

LAYERS, SIDE = 9, 8192
BYTES = LAYERS * SIDE * SIDE * 4

SCRIPT = """
import sys
from pathlib import Path
import qir

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10

path = Path(sys.argv[1])
qir.verify(qir.load(path))
before = peak()
module = qir.load(path)
qir.save(module, path)
qir.save(module, path.with_name("copy.onnx"))
qir.print_module(module, constants="hash")
print(before, peak())
"""


@pytest.fixture
def large(tmp_path):
    """A network of 2.25 GiB, whose data file is all holes."""
    tensors, nodes = [], []
    for index in range(LAYERS):
        tensor = onnx.TensorProto(name=f"w{index}", data_type=onnx.TensorProto.FLOAT, dims=[SIDE, SIDE])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": "m.data", "offset": index * SIDE * SIDE * 4, "length": SIDE * SIDE * 4}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"v{index}", f"w{index}"], [f"v{index + 1}"], f"n{index}"))
    first, last = (helper.make_tensor_value_info(f"v{index}", 1, ["N", SIDE]) for index in (0, LAYERS))
    graph = helper.make_graph(nodes, "g", [first], [last], tensors)
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    with (tmp_path / "m.data").open("wb") as file:
        file.truncate(BYTES)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
def test_a_model_of_more_than_2_gib_is_loaded_saved_and_printed_in_less_memory_than_two_of_its_tensors(large):
    assert BYTES > 2**31
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(large)], capture_output=True, text=True, check=True, env=environment
    )
    before, peak = map(int, done.stdout.split())
    print(f"\n{BYTES >> 20} MiB: peak {before} MiB after load, {peak} MiB after two saves and a print")
    assert before < 200
    assert peak < before + 2 * (SIDE * SIDE * 4 >> 20)
    (copied,) = large.parent.glob("copy.onnx.*.data")
    assert copied.stat().st_size == BYTES
    onnx.checker.check_model(str(large.with_name("copy.onnx")))
