import math
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qir
from qir.attributes import Attribute, AttributeKind
from qir.errors import ParseError
from qir.fake_quant import make_fake_quant
from qir.granularity import PerChannel
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.tensor import Tensor
from qir.text.printer import constants_of
from qir.text.types import parse_type
from qir.text.values import float_text, read_number
from qir.types import DType, OpaqueType, OptionalType, QuantType, SequenceType, TensorType, UnknownType

TEXT = st.text(max_size=8)
BYTES = st.binary(max_size=8)
SINGLE = st.floats(width=32)


def same(module):
    for mode in ("inline", "hash"):
        text = qir.print_module(module, mode)
        again = qir.parse(text, constants_of(module))
        assert qir.print_module(again, mode) == text
    return again


def attributes():
    tensors = st.sampled_from(
        [np.float32([np.nan, -0.0]), np.arange(40), np.zeros((0, 3)), np.array([b"\xff", "é"], object)]
    )
    return st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        BYTES,
        TEXT,
        st.lists(SINGLE.filter(lambda f: f == f), min_size=1, max_size=3).map(tuple),
        st.lists(BYTES, max_size=3).map(tuple),
        st.lists(st.integers(-9, 9), max_size=3).map(tuple),
        tensors.map(Tensor.of),
        st.sampled_from([k for k in AttributeKind if k.name.endswith("S")]).map(lambda k: Attribute(k, ())),
        st.sampled_from([AttributeKind.INT, AttributeKind.GRAPH]).map(lambda k: Attribute(k, None, "doc", "outer")),
        BYTES.map(lambda b: Attribute(AttributeKind.SPARSE_TENSOR, b)),
        st.just(TensorType(DType.INT4, ("n", None, 3))),
    )


@st.composite
def modules(draw):
    graph = Graph(draw(TEXT))
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=6, max_size=6, unique=True))
    known = [graph.add_input(Value(names.pop(), draw(st.sampled_from([UnknownType(), TensorType(DType.BOOL, None)]))))]
    known.append(graph.add_constant(Value(names.pop()), Tensor.of(np.float32([1.5, 0.1]), name=draw(TEXT))))
    while names:
        operands = draw(st.lists(st.one_of(st.none(), st.sampled_from(known)), max_size=3))
        found = draw(st.dictionaries(st.text(min_size=1, max_size=4), attributes(), max_size=3))
        node = Node(draw(TEXT), operands, [names.pop(), ""], domain=draw(TEXT), name=draw(TEXT), attributes=found)
        node.doc_string, node.opaque = draw(TEXT), draw(BYTES)
        node.metadata = draw(st.dictionaries(TEXT, TEXT, max_size=2))
        if not node.is_fake_quant and not node.is_return:
            graph.insert(node)
            known.append(node.results[0])
    graph.set_outputs([known[-1], None], [draw(TEXT), ""])
    module = Module(
        graph,
        ir_version=draw(st.integers(0, 20)),
        opsets=draw(st.dictionaries(TEXT, st.integers(1, 30), max_size=2)) or None,
    )
    module.producer_name, module.doc_string, module.opaque = draw(TEXT), draw(TEXT), draw(BYTES)
    return module


@settings(max_examples=150, deadline=None)
@given(modules())
def test_any_module_comes_back_to_the_byte(module):
    same(module)


@given(st.floats())
def test_any_double_comes_back_to_the_bit(number):
    again = read_number(float_text(number))
    assert isinstance(again, float)
    assert struct.pack("<d", again) == struct.pack("<d", number)


@pytest.mark.parametrize("number", [math.nan, -math.nan, math.inf, -math.inf, -0.0, 0.1, float(np.float32(0.1)), 1e300])
def test_special_numbers_come_back(number):
    assert struct.pack("<d", read_number(float_text(number))) == struct.pack("<d", number)


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.float8_e4m3fn, np.bool_, np.complex64, np.uint64, np.float16],
)
@pytest.mark.parametrize("size", [0, 3, 40])
def test_tensors_of_every_kind_come_back(dtype, size):
    graph = Graph("g")
    constant = graph.add_constant("c", Tensor.of((np.arange(size) % 5).astype(dtype)))
    graph.set_outputs([constant])
    again = same(Module(graph)).graph.constants[0].constant.numpy()
    assert again.tobytes() == constant.constant.numpy().tobytes()


def test_subgraphs_functions_and_captured_values_come_back():
    graph = Graph("main")
    x = graph.add_input(Value("x:0", TensorType(DType.FLOAT32, (1, "batch"))))
    inner = Graph("then")
    inner.set_outputs([inner.insert(Node("Relu", [x])).result])
    node = graph.insert(Node("If", [x], attributes={"then_branch": inner, "else_branch": Graph("else")}))
    graph.set_outputs([node.result], ["out"])
    module = Module(graph)
    body = Graph("body")
    body.set_outputs(
        [
            body.insert(
                Node(
                    "Elu",
                    [body.add_input("a")],
                    attributes={"alpha": Attribute(AttributeKind.FLOAT, None, "", "alpha")},
                )
            ).result
        ]
    )
    function = Function("mine", "f", body, overload="o")
    function.attribute_names, function.attributes = ("alpha",), {"beta": Attribute.of(1.0)}
    function.opsets = {"": 21}
    module.add_function(function)
    again = same(module)
    captured = again.graph.nodes[0].subgraphs()[0].nodes[0].inputs[0]
    assert captured is again.graph.inputs[0]
    assert again.functions["mine", "f", "o"].attribute_names == ("alpha",)


def test_fake_quant_types_follow_from_the_attributes():
    graph = Graph("main")
    x = graph.add_input(Value("x", TensorType(DType.FLOAT32, (2,))))
    graph.set_outputs(
        [
            graph.insert(
                make_fake_quant(x, name="q", bits=(2, 0), widths=(2, 4), signed=True, granularity=PerChannel(0))
            ).result
        ]
    )
    assert same(Module(graph)).graph.outputs[0].type == graph.outputs[0].type


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qir 2", "version 2"),
        ('qir 1\nmodule ir_version 8\ngraph "g" {\n  %y = Relu(%x)\n  return %y\n}', "line 4, column 13.*'x' is not"),
        ('qir 1\nmodule ir_version 8\ngraph "g" {\n  input %x: tensor<[1]xfloat3>\n  return\n}', "line 4.*float3"),
        ('qir 1\nmodule ir_version 8\ngraph "g" {\n', "the return line"),
        ('qir 1\nmodule ir_version 8\ngraph "g', "closed string"),
    ],
)
def test_wrong_text_is_refused_with_its_place(text, message):
    with pytest.raises(ParseError, match=message):
        qir.parse(text)


def test_a_missing_hash_is_refused():
    graph = Graph("g")
    graph.set_outputs([graph.add_constant("c", Tensor.of(np.arange(100)))])
    with pytest.raises(ParseError, match="not in the store"):
        qir.parse(qir.print_module(Module(graph), "hash"))


@pytest.mark.parametrize(
    "type_",
    [
        UnknownType(),
        OpaqueType(b"\x00\xff"),
        SequenceType(OptionalType(TensorType(DType.STRING, ()))),
        TensorType(DType.FLOAT8E8M0, ('a"\n', None, 0)),
        TensorType(
            QuantType((0, 3), axis=0, narrow=True, scheme="of mine", low=(-1e-7, -1.0), high=(1.0, 1.5)), (2, 4)
        ),
        TensorType(QuantType(8, signed=False, scale=(0.1,), zero_point=(255,)), None),
        TensorType(QuantType(2, axis=1, block=2, levels=((-1.0, 0.5), (0.0, 1.0))), (2, 4)),
    ],
    ids=str,
)
def test_types_come_back(type_):
    assert parse_type(str(type_)) == type_
