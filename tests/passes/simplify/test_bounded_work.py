"""Work on a file is bounded by its size: functions that call each other, text and JSON that nest deeply."""

import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qir
from qir.backends.costs.target import load_target
from qir.errors import ModelFileError, ParseError, PassError, SearchError, TargetError
from qir.guide import read_guide
from qir.onnx_io import to_bytes
from qir.ops import inference
from qir.passes import run_passes
from qir.search.problem.result import read_result
from qir.support.json_text import parse_json

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]


def functions(count, body):
    """Functions f0, f1, …; `body` makes the nodes of each from its name and the next one's, None for the last one."""
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="l")], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=10)
    for i in range(count):
        nodes = body(f"f{i + 1}" if i < count - 1 else None)
        model.functions.append(helper.make_function("l", f"f{i}", ["a"], ["b"], nodes, OPSETS))
    return model.SerializeToString()


def twice(other):
    if other is None:
        return [helper.make_node("Relu", ["a"], ["b"])]
    return [helper.make_node(other, ["a"], ["t"], domain="l"), helper.make_node(other, ["t"], ["b"], domain="l")]


def once(other):
    return [helper.make_node(other, ["a"], ["b"], domain="l") if other else helper.make_node("Relu", ["a"], ["b"])]


def inlined(data):
    module = qir.load(data)
    run_passes(module, "inline-functions")
    return module


def test_functions_that_stand_for_too_many_nodes_are_refused_before_one_is_made():
    start = time.monotonic()
    with pytest.raises(PassError, match=r"nodes would be made, expected at most 131,072.*largest"):
        inlined(functions(40, twice))
    assert time.monotonic() - start < 20


def test_the_limit_is_an_option():
    module = qir.load(functions(4, twice))
    with pytest.raises(PassError, match="23 nodes"):
        run_passes(module, "inline-functions{largest=22}")
    run_passes(module, "inline-functions{largest=23}")
    assert [node.op for node in module.graph] == ["Relu"] * 8


def test_types_of_functions_that_stand_for_too_many_nodes_end(monkeypatch):
    monkeypatch.setattr(inference, "LARGEST_CALLS", 1000)
    module = qir.load(functions(60, twice))
    run_passes(module, "infer-types")
    assert str(module.graph.outputs[0].type) == "tensor<[2]xfloat32>"


def test_a_long_chain_of_functions_is_read_and_inlined():
    start = time.monotonic()
    module = inlined(functions(3000, once))
    assert [node.op for node in module.graph] == ["Relu"]
    assert time.monotonic() - start < 30


def test_a_ring_of_functions_is_refused():
    model = onnx.ModelProto.FromString(functions(500, once))
    model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "f0", "l"
    with pytest.raises(ModelFileError, match="calls itself"):
        qir.load(model.SerializeToString())


def test_many_calls_are_inlined_in_linear_time():
    start = time.monotonic()
    assert len(list(inlined(functions(12, twice)).graph)) == 2048
    assert time.monotonic() - start < 20


def test_many_branches_are_inlined_in_linear_time():
    count = 300
    nodes, name = [], "x"
    for i in range(count):
        branch = helper.make_graph(
            [helper.make_node("Abs", [name], [f"b{i}"])], f"g{i}", [], [helper.make_tensor_value_info(f"b{i}", 1, [2])]
        )
        nodes.append(helper.make_node("If", ["c"], [f"v{i}"], then_branch=branch, else_branch=branch))
        name = f"v{i}"
    info = [helper.make_tensor_value_info(n, 1, [2]) for n in ("x", name)]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(np.array(True), "c")])
    module = qir.load(helper.make_model(graph, opset_imports=OPSETS[:1], ir_version=10).SerializeToString())
    run_passes(module, "inline-branches")
    assert [node.op for node in module.graph] == ["Abs"] * count
    assert len({value.name for value in module.graph.values()}) == count + 1
    qir.load(to_bytes(module))


DEEP = {
    "lists": "[" * 100_000,
    "closed lists": '{"a": ' + "[" * 2000 + "]" * 2000 + "}",
    "objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "integer": '{"version": ' + "9" * 5000 + "}",
    "integer within Python's limit": '{"version": ' + "9" * 4000 + "}",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
@pytest.mark.parametrize(
    ("read", "error"), [(load_target, TargetError), (read_guide, qir.QirError), (read_result, SearchError)]
)
def test_json_that_nests_deeply_or_holds_long_integers_is_refused(tmp_path, read, error, text):
    path = tmp_path / "deep.json"
    path.write_text(text)
    with pytest.raises(error, match=r"deep\.json"):
        read(path)


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP.keys())
def test_deep_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nests deeper|digits"):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "qir 1 module ir_version " + "9" * 5000,
        'qir 1 module ir_version 10 opset "" ' + "9" * 5000,
        'qir 1 module ir_version 10 opset "" 21 graph "g" (%x: ' + "seq<" * 5000,
    ],
)
def test_text_that_nests_deeply_or_holds_long_integers_is_refused(text):
    with pytest.raises(ParseError, match="line 1"):
        qir.parse(text)
