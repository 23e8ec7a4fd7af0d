"""What a file declares and what inference finds stay apart: a file that is saved and read again says the same."""

import onnx
import pytest
from onnx import helper

import qir
from qir.errors import ModelFileError, QirError
from qir.onnx_io import load, to_bytes


def model_of(node, output):
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, [2, 3])], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def printed_twice(data):
    """The text of a file, and its text after saving and reading; None where it cannot be read or printed."""
    try:
        module = load(data)
        return qir.print_module(module), qir.print_module(load(to_bytes(module)))
    except QirError:
        return None


@pytest.mark.parametrize(
    "output", [onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="y", type=onnx.TypeProto())]
)
def test_an_output_without_a_type_stays_one(output):
    data = model_of(helper.make_node("Relu", ["x"], ["y"]), output).SerializeToString()
    first, second = printed_twice(data)
    assert "%y: ~ tensor<[2,3]xfloat32>" in first
    assert first == second


def test_an_output_that_is_new_has_a_type():
    module = load(model_of(helper.make_node("Relu", ["x"], ["y"]), onnx.ValueInfoProto(name="y")).SerializeToString())
    module.graph.set_outputs([module.graph.nodes[0].result], ["z"])
    assert onnx.ModelProto.FromString(to_bytes(module)).graph.output[0].type.tensor_type.elem_type == 1


def test_attributes_that_do_not_tell_their_kind_are_inferred_as_they_are_written():
    proto = model_of(helper.make_node("Flatten", ["x"], ["y"], axis=2), helper.make_tensor_value_info("y", 1, None))
    proto.graph.node[0].attribute[0].ClearField("type")
    first, second = printed_twice(proto.SerializeToString())
    assert "~ tensor<[6,1]xfloat32>" in first
    assert first == second


@pytest.mark.parametrize("kind", ["FLOAT", "STRING", "INTS", "TENSOR", "STRINGS", "GRAPH", "SPARSE_TENSORS"])
def test_an_attribute_whose_value_is_of_another_kind_is_refused(kind):
    proto = model_of(helper.make_node("Flatten", ["x"], ["y"], axis=1), helper.make_tensor_value_info("y", 1, [2, 3]))
    proto.graph.node[0].attribute[0].type = onnx.AttributeProto.AttributeType.Value(kind)
    with pytest.raises(ModelFileError, match=f"'axis': its kind is {kind}, its value stands in 'i'"):
        load(proto.SerializeToString())


def test_a_file_that_imports_too_few_operator_sets_is_inferred_as_it_is_written():
    proto = model_of(helper.make_node("Relu", ["x"], ["y"]), helper.make_tensor_value_info("z", 1, None))
    proto.graph.node.append(helper.make_node("Op", ["y"], ["z"], domain="not.imported"))
    first, second = printed_twice(proto.SerializeToString())
    assert "%y: ~ tensor<[2,3]xfloat32>" in first
    assert first == second


def test_a_type_that_is_there_but_empty_is_written_back_as_such():
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in ("x", "w")]
    inputs[0].type.Clear()
    inputs[0].type.SetInParent()
    node = helper.make_node("LayerNormalization", ["x", "w"], ["y", "mean"])
    outputs = [
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3]),
        onnx.ValueInfoProto(name="mean"),
    ]
    graph = helper.make_graph([node], "g", inputs, outputs)
    module = qir.load(helper.make_model(graph, ir_version=10).SerializeToString())
    written = onnx.ModelProto.FromString(to_bytes(module))
    assert written.graph.input[0].HasField("type")
    assert qir.print_module(qir.load(to_bytes(module))) == qir.print_module(module)
