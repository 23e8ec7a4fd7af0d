"""Random models come back."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import qir
from qir.onnx_io import load, to_bytes, to_proto

DTYPES = ["float32", "float16", "int64", "int32", "uint8", "bool", "float64"]


@st.composite
def models(draw, depth=0, visible=("x",)):
    """A graph of unary and binary ops over earlier values, constants, optional operands, subgraphs that capture."""
    names = list(visible)
    tensors, nodes = [], []
    prefix = f"d{depth}."
    for index in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
        tensors.append(numpy_helper.from_array(array, f"{prefix}c{index}"))
        names.append(tensors[-1].name)
    for index in range(draw(st.integers(1, 6))):
        pick = st.sampled_from(names)
        kind = draw(st.sampled_from(["Relu", "Add", "Clip", "custom", "If"] if depth < 2 else ["Relu", "Add"]))
        out = f"{prefix}v{index}"
        if kind == "If":
            branch = draw(models(depth=depth + 1, visible=tuple(names)))
            node = helper.make_node("If", [draw(pick)], [out], then_branch=branch, else_branch=branch)
        elif kind == "custom":
            node = helper.make_node("Op", [draw(pick), ""], [out, ""], domain="my.domain")
            for name, value in draw(
                st.dictionaries(
                    st.text("abc", min_size=1, max_size=3),
                    st.one_of(
                        st.integers(-(2**63), 2**63 - 1),
                        st.binary(max_size=4),
                        st.lists(st.integers(-5, 5), min_size=1, max_size=4),
                    ),
                    max_size=3,
                )
            ).items():
                node.attribute.append(helper.make_attribute(name, value))
        else:
            node = helper.make_node(kind, [draw(pick) for _ in range({"Relu": 1, "Add": 2, "Clip": 3}[kind])], [out])
        node.name = draw(st.text(max_size=4))
        node.doc_string = draw(st.sampled_from(["", "doc"]))
        nodes.append(node)
        names.append(out)
    outputs = [
        helper.make_tensor_value_info(
            nodes[-1].output[0], draw(st.integers(1, 16)), draw(st.sampled_from([None, [], ["N", 3], [1, 2]]))
        )
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["N", 3])] if depth == 0 else []
    graph = helper.make_graph(nodes, f"g{depth}", inputs, outputs, tensors)
    if depth:
        return graph
    return helper.make_model(
        graph, opset_imports=[onnx.OperatorSetIdProto(version=21), helper.make_opsetid("my.domain", 1)], ir_version=10
    )


def _without_empty_texts(message):
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                _without_empty_texts(each)
        elif value == "" and not field.is_repeated:
            message.ClearField(field.name)
    return message


@pytest.mark.named_nodes
@settings(max_examples=60, deadline=None)
@given(models())
def test_random_models_come_back(proto):
    module = load(proto.SerializeToString())
    assert _without_empty_texts(to_proto(module)) == _without_empty_texts(proto)
    assert to_bytes(qir.parse(qir.print_module(module))) == to_bytes(
        load(to_bytes(qir.parse(qir.print_module(module))))
    )
